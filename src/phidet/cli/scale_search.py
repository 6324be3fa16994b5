"""``phidet scale-search``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args

import msgspec

from phidet.cli.table import billions, or_dash, table
from phidet.config import Architecture
from phidet.errors import ConfigError
from phidet.family import family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet scale-search``."""
    parser.add_argument(
        "what", choices=["compound", "width"], help="α, β, γ of the backbone, or the factor of the feature network"
    )
    parser.add_argument("--architecture", default="efficientnet", choices=get_args(Architecture), help="for compound")
    parser.add_argument("--budget", type=float, default=2.0, metavar="X", help="for compound: α·β²·γ² (2)")
    parser.add_argument("--tolerance", type=float, default=0.1, metavar="X", help="for compound: around it (0.1)")
    parser.add_argument("--step", type=float, default=0.05, metavar="X", help="for compound: of the grid (0.05)")
    parser.add_argument("--family", default="efficientdet", metavar="NAME", help="for width: what φ scales")
    parser.add_argument("--phi", type=float, default=3.0, metavar="φ", help="for width: where to compare (3)")
    parser.add_argument(
        "--accuracy",
        metavar="MODULE:FUNCTION",
        help="your own measure, called with each candidate's config; more is better",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Searches and prints the candidates, best first."""
    from phidet.analysis.scale_search import search_compound, search_width

    accuracy = _load(args.accuracy) if args.accuracy else None
    if args.what == "compound":
        compound = search_compound(
            args.architecture, budget=args.budget, tolerance=args.tolerance, step=args.step, accuracy=accuracy
        )
        header = ["α, β, γ", "α·β²·γ²", "cost at φ = 1", "parameters", "accuracy"]
        rows = [
            [
                f"{c.scaling.alpha:.2f}, {c.scaling.beta:.2f}, {c.scaling.gamma:.2f}",
                f"{c.law_cost:.3f}",
                f"{c.measured_cost:.3f}×",
                f"{c.parameters:,}",
                or_dash(c.accuracy, "{:.4g}"),
            ]
            for c in compound
        ]
        found: list[Any] = list(compound)
    else:
        width = search_width(family(args.family), phi=args.phi, accuracy=accuracy)
        header = ["width factor", "channels", "parameters", "mult-adds", "cost over φ = 0", "accuracy"]
        rows = [
            [
                f"{c.factor:g}",
                f"{c.channels}",
                f"{c.parameters:,}",
                billions(c.multiply_adds),
                f"{c.relative_cost:.2f}×",
                or_dash(c.accuracy, "{:.4g}"),
            ]
            for c in width
        ]
        found = list(width)
    print(msgspec.json.format(msgspec.json.encode(found)).decode() if args.json else table(header, rows))


def _load(reference: str) -> Callable[[Any], float]:
    """The function that ``module:function`` names, looked for in the current folder first."""
    module, _, name = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--accuracy {reference}: expected MODULE:FUNCTION that can be imported ({error})") from error
    if not callable(function):
        raise ConfigError(f"--accuracy {reference} is not a function")
    accuracy: Callable[[Any], float] = function
    return accuracy
