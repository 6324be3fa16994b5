"""``phidet scale-search``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, get_args

from phidet.architectures.backbones.config import BackboneArchitecture
from phidet.architectures.backbones.scaling import CompoundScaling
from phidet.architectures.efficientdet.published import family_of
from phidet.architectures.efficientdet.scaling import DetectorLaw
from phidet.cli.arguments import add_json, add_limit
from phidet.cli.tables import billions, or_dash, print_json, table
from phidet.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet scale-search``."""
    parser.add_argument(
        "what", choices=["compound", "width"], help="α, β, γ of the backbone, or the factor of the feature network"
    )
    parser.add_argument(
        "--architecture", default="efficientnet", choices=get_args(BackboneArchitecture), help="for compound"
    )
    parser.add_argument("--budget", type=float, default=2.0, metavar="X", help="for compound: α·β²·γ² (2)")
    parser.add_argument("--tolerance", type=float, default=0.1, metavar="X", help="for compound: around it (0.1)")
    parser.add_argument("--step", type=float, default=0.05, metavar="X", help="for compound: of the grid (0.05)")
    add_limit(parser, 20, "for compound: how many to print")
    parser.add_argument("--family", default="efficientdet", metavar="NAME", help="for width: what φ scales")
    parser.add_argument("--phi", type=float, default=3.0, metavar="φ", help="for width: where to compare (3)")
    parser.add_argument(
        "--accuracy",
        metavar="MODULE:FUNCTION",
        help="your own measure, called with each candidate's config; more is better",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Searches and prints the candidates, best first."""
    if args.limit < 1:
        raise ConfigError(f"--limit must be a whole number ≥ 1, got {args.limit}")
    accuracy = _load(args.accuracy) if args.accuracy else None
    found, text = (_compound if args.what == "compound" else _width)(args, accuracy)
    if args.json:
        print_json(found)
    else:
        print(text)


def _compound(args: argparse.Namespace, accuracy: Callable[[Any], float] | None) -> tuple[Sequence[object], str]:
    from phidet.evaluation.scale_search import search_compound

    rows: list[tuple[str, ...]] = []
    found = search_compound(
        args.architecture, budget=args.budget, tolerance=args.tolerance, step=args.step, accuracy=accuracy
    )
    for c in found:
        s, paper = c.scaling, "the paper's" if c.scaling == CompoundScaling() else ""
        # The paper's choice is always shown, for comparison.
        if len(rows) < args.limit or paper:
            factors, cost = f"{s.alpha:.2f}, {s.beta:.2f}, {s.gamma:.2f}", f"{c.measured_cost:.3f}×"
            rows.append((factors, f"{c.law_cost:.3f}", cost, f"{c.parameters:,}", or_dash(c.accuracy, "{:.4g}"), paper))
    order = "most accurate" if accuracy else "measured cost nearest to the budget"
    shown = table(("α, β, γ", "α·β²·γ²", "cost at φ = 1", "parameters", "accuracy", ""), rows)
    return found, f"{shown}\n\n{len(found)} candidates, {len(rows)} shown (--limit), {order} first"


def _width(args: argparse.Namespace, accuracy: Callable[[Any], float] | None) -> tuple[Sequence[object], str]:
    from phidet.evaluation.scale_search import search_width

    found = search_width(family_of(args.family), phi=args.phi, accuracy=accuracy)
    rows = []
    for c in found:
        costs = f"{c.parameters:,}", billions(c.multiply_adds), f"{c.relative_cost:.2f}×"
        paper = "the paper's" if c.factor == DetectorLaw().width_factor else ""
        rows.append((f"{c.factor:g}", str(c.channels), *costs, or_dash(c.accuracy, "{:.4g}"), paper))
    return found, table(
        ("width factor", "channels", "parameters", "mult-adds", "cost over φ = 0", "accuracy", ""), rows
    )


def _load(reference: str) -> Callable[[Any], float]:
    """The function that ``module:function`` names, searched in the current folder first."""
    module, _, name = reference.partition(":")
    # An installed console script does not have the current folder on its path, unlike python -m.
    sys.path.insert(0, os.getcwd())
    try:
        function: Callable[[Any], float] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--accuracy {reference}: expected MODULE:FUNCTION that can be imported ({error})") from error
    if not callable(function):
        raise ConfigError(f"--accuracy {reference} is not a function")

    def measured(config: Any) -> float:
        value = function(config)
        try:
            return float(value)  # also of NumPy and PyTorch
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--accuracy {reference} returned {value!r}: expected a number") from error

    return measured
