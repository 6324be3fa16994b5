"""``phidet info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from phidet.architectures.base import NetworkConfig
from phidet.architectures.config import default_class_names
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.published import DETECTOR_NAMES, detector_config
from phidet.architectures.registry import (
    architecture_of,
    family_owner,
    published_config,
    published_names,
    publisher_of,
)
from phidet.cli.arguments import add_image_size, add_json, add_out
from phidet.cli.tables import billions, or_dash, print_json, table
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.files import raising_write_errors
from phidet.core.structs import replace
from phidet.inference.runtimes.open_model import EXPORTS, model_file, open_network

if TYPE_CHECKING:  # need PyTorch, which drawing a graph must not import
    from phidet.architectures.costs import Cost
    from phidet.architectures.efficientdet.report import DetectorReport, NeckReport
    from phidet.architectures.report import NetworkReport

EXAMPLES = """examples:
  phidet info efficientdet-d0                    one model
  phidet info my-model.safetensors               a model file, or a run's folder; person: the bundled one
  phidet info --phi 1.5 --num-classes 3          what the law gives
  phidet info efficientdet-d0 --image-size 384x640
  phidet info --all                              the family beside the published values
  phidet info efficientdet-d3 --compare-necks    feature networks, as the paper compares them
  phidet info --graph bifpn --out bifpn.svg      draw one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet info``."""
    parser.epilog = EXAMPLES
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name, a model file, an export or a run's folder")
    parser.add_argument("--phi", type=float, metavar="φ", help="instead of a name: what the law gives for φ, −2 to 10")
    parser.add_argument("--family", default="efficientdet", metavar="NAME", help="what φ scales (efficientdet)")
    add_image_size(parser)
    parser.add_argument("--num-classes", type=int, metavar="N", help="real classes, without background")
    parser.add_argument("--all", action="store_true", help="the whole family beside the published values")
    parser.add_argument("--compare-necks", action="store_true", help="every feature network in the model's place")
    parser.add_argument("--graph", metavar="NAME", help="draw this feature network")
    parser.add_argument("--levels", type=levels, default=(3, 7), metavar="LOW-HIGH", help="its levels (3-7)")
    add_out(parser, "FILE.svg", "where to draw (standard output)")
    add_json(parser)


def levels(text: str) -> tuple[int, int]:
    """ "3-7" as (3, 7)."""
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected levels as LOW-HIGH, for instance 3-7, got {text!r}")
    return int(low), int(high)


def run(args: argparse.Namespace) -> None:
    """Prints what was asked for."""
    if args.graph is not None:
        _draw(args.graph, args.levels, args.out)
        return
    if args.out is not None:
        raise ConfigError("--out belongs to --graph: phidet info --graph bifpn --out bifpn.svg")
    if args.all:
        _print_family(args.json)
        return
    _print(_config(args), args)


def _draw(name: str, levels: tuple[int, int], out: Path | None) -> None:
    from phidet.architectures.efficientdet.graph_drawing import graph_svg
    from phidet.architectures.feature_networks.graphs import build_graph

    svg = graph_svg(build_graph(name, *levels))
    # An SVG on standard output can be piped; the message about a file goes to standard error.
    if out is None:
        print(svg)
        return
    if out.suffix != ".svg":
        raise ConfigError(f"the drawing is an SVG, got --out {out}: name it {out.with_suffix('.svg')}")
    with raising_write_errors(out):
        out.write_text(svg, encoding="utf-8")
    print(f"wrote {out}", file=sys.stderr)


def _config(args: argparse.Namespace) -> Any:
    if (args.model is None) == (args.phi is None):
        raise ConfigError("name a model (phidet info efficientdet-d0), give --phi, or use --all")
    # Names do not matter for costs, only their number does.
    names = default_class_names(args.num_classes) if args.num_classes is not None else None
    if args.phi is not None:
        scaled = family_owner(args.family).scaled_config(args.phi, args.family)
        return scaled if names is None else replace(scaled, {"class_names": names})
    # A published name needs no file; only then is the word taken for a path.
    publisher = publisher_of(args.model)
    if publisher is not None:
        return publisher.published_config(args.model, names)
    path = model_file(args.model) or Path(args.model)
    if not path.is_file():
        # Looks like a path: an unknown model name would be a misleading error.
        if path.suffix or len(path.parts) > 1:
            raise ConfigError(f"no model file at {path}: expected a model file, an export, a run's folder or a name")
        raise UnknownNameError("model", args.model, published_names())
    if names is not None:
        raise ConfigError("a model file has its own classes: leave --num-classes out")

    if path.suffix.lower() in EXPORTS:
        return open_network(path).config

    from phidet.weights.convert import identify
    from phidet.weights.load import open_source

    return identify(open_source(path))


def _print(config: Any, args: argparse.Namespace) -> None:
    from phidet.architectures.efficientdet import report
    from phidet.architectures.report import describe_network

    # Costs are those of an image, which these networks do not take.
    if architecture_of(config).says & {"relations", "samples"}:
        _print_parameters(config, args)
        return
    found: Any
    show: Callable[[Any, Any], None]
    if args.compare_necks:
        if not isinstance(config, ModelConfig):
            raise ConfigError(f"{config.name} has no feature network")
        found, show = report.compare_necks(config), _print_necks
    elif isinstance(config, ModelConfig):
        found, show = report.describe_detector(config, args.image_size), _print_detector
    else:
        found, show = describe_network(config, args.image_size), _print_network
    if args.json:
        print_json(found if args.compare_necks else {**msgspec.structs.asdict(found), "config": config})
    else:
        show(config, found)


def _print_network(config: NetworkConfig, report: NetworkReport) -> None:
    _print_head(config, report.input_hw)
    _print_parts(report.parts)
    if report.published is not None:
        metrics = msgspec.structs.asdict(report.published)
        said = [f"{name.replace('_', ' ')} {value:,}" for name, value in metrics.items() if value is not None]
        print("\npublished: " + ", ".join(said))


def _print_parameters(config: NetworkConfig, args: argparse.Namespace) -> None:
    """A network that takes no image, but detections or latents: its parameters are counted, not its cost."""
    from phidet.architectures.costs import build_on_meta

    if args.image_size is not None or args.compare_necks:
        raise ConfigError(f"{config.name} takes no image: leave the other options out")
    parameters = sum(p.numel() for p in build_on_meta(config).parameters())
    if args.json:
        print_json({"name": config.name, "parameters": parameters, "config": config})
        return
    print(config.name)
    _print_summary(config)
    print(f"  {'parameters':<16} {parameters:,}")


def _print_head(config: NetworkConfig, input_hw: tuple[int, int]) -> None:
    mean = ", ".join(f"{m:.1f}" for m in config.preprocess.mean_rgb)
    std = ", ".join(f"{s:.1f}" for s in config.preprocess.std_rgb)
    print(config.name)
    print(f"  input            {input_hw[0]}×{input_hw[1]} RGB, (pixel − [{mean}]) / [{std}]")
    _print_summary(config)


def _print_summary(config: NetworkConfig) -> None:
    classes = ", ".join(config.class_names[:5]) + (", …" if config.num_classes > 5 else "")
    print(f"  {'classes':<16} {config.num_classes}: {classes}")
    for subject, text in architecture_of(config).summary(config):
        print(f"  {subject:<16} {text}")


def _print_detector(config: ModelConfig, report: DetectorReport) -> None:
    _print_head(config, report.input_hw)
    print()
    rows = [
        [
            f"P{level.level}",
            f"{level.stride}",
            f"{level.grid_hw[0]}×{level.grid_hw[1]}",
            f"{level.anchors:,}",
            f"{level.anchor_sides[0]:.0f}–{level.anchor_sides[1]:.0f}",
            or_dash(level.backbone_field, "{:,}"),
            f"{level.field:,}",
        ]
        for level in report.levels
    ]
    rows.append(["all", "", "", f"{sum(level.anchors for level in report.levels):,}", "", "", ""])
    print(table(["level", "stride", "grid", "anchors", "anchor sides", "backbone sees", "head sees (px)"], rows))
    print()
    _print_parts(report.parts)
    p = report.published
    if p is not None:
        shown = [
            ("parameters", or_dash(p.parameters, "{:,}")),
            ("multiply-adds", or_dash(p.multiply_adds_billion, "{:g}B")),
            ("AP test-dev", or_dash(p.ap_test)),
            ("AP val", or_dash(p.ap_val)),
            ("V100 ms", or_dash(p.v100_ms)),
        ]
        print("\npublished: " + ", ".join(f"{name} {value}" for name, value in shown if value != "–"))


def _print_parts(parts: dict[str, Cost]) -> None:
    from phidet.architectures.costs import total

    whole = total(parts)
    rows = [
        [
            name.replace("_", " "),
            f"{cost.parameters:,}",
            billions(cost.multiply_adds),
            f"{cost.multiply_adds / whole.multiply_adds:.0%}",
        ]
        for name, cost in {**parts, "total": whole}.items()
    ]
    print(table(["part", "parameters", "multiply-adds", "share"], rows))


def _print_necks(config: ModelConfig, necks: list[NeckReport]) -> None:
    rows = [
        [
            f"{n.graph} ({n.fusion})",
            f"{n.neck.parameters:,}",
            billions(n.neck.multiply_adds),
            f"{n.relative_parameters:.2f}×",
            f"{n.relative_multiply_adds:.2f}×",
            f"{n.model_relative_parameters:.2f}×",
            f"{n.model_relative_multiply_adds:.2f}×",
            or_dash(n.paper_parameters, "{:.2f}×"),
            or_dash(n.paper_multiply_adds, "{:.2f}×"),
            or_dash(n.paper_ap, "{:.2f}"),
        ]
        for n in necks
    ]
    columns = ["feature network", "parameters", "mult-adds", "params", "m-adds", "model params", "m-adds"]
    print(f"{config.name}: each feature network in its place, ×{config.feature_network.repeats}, relative to FPN")
    print()
    print(table([*columns, "paper params", "m-adds", "paper AP"], rows))
    print(
        "\nHere every network has the same channels, repeats and separable convolutions. The paper gives its ratios\n"
        "without the channels and repeats behind them, so its columns compare other sizes; AP is the paper's."
    )


def _print_family(as_json: bool) -> None:
    from phidet.architectures.efficientdet.report import describe_detector
    from phidet.architectures.report import describe_network

    detectors = [describe_detector(detector_config(name)) for name in DETECTOR_NAMES]
    classifiers = [describe_network(published_config(name)) for name in published_names("classes")]
    if as_json:
        print_json({"detectors": detectors, "classifiers": classifiers})
        return
    rows = []
    for d in detectors:
        p = d.published
        # Counted here against published: the difference shows how well the implementations agree.
        published = p.multiply_adds_billion if p else None
        own = d.total.multiply_adds / 1e9
        rows.append(
            [
                d.name,
                f"{d.input_hw[0]}",
                f"{d.total.parameters:,}",
                or_dash(p.parameters if p else None, "{:,}"),
                billions(d.total.multiply_adds),
                or_dash(published, "{:g}B"),
                f"{own / published - 1:+.1%}" if published else "–",
                or_dash(p.ap_test if p else None),
                or_dash(p.ap_val if p else None),
                or_dash(p.v100_ms if p else None),
            ]
        )
    columns = ["model", "input", "parameters", "published", "mult-adds", "published", "off"]
    print(table([*columns, "AP test", "AP val", "V100 ms"], rows))
    rows = []
    for c in classifiers:
        pc = c.published
        rows.append(
            [
                c.name,
                f"{c.input_hw[0]}",
                f"{c.total.parameters:,}",
                or_dash(pc.parameters_million if pc else None, "{:g}M"),
                billions(c.total.multiply_adds),
                or_dash(pc.multiply_adds_billion if pc else None, "{:g}B"),
                or_dash(pc.top1 if pc else None),
            ]
        )
    print()
    print(table([*columns[:-1], "top-1"], rows))
    print(
        "\nParameters include the 90-slot COCO head, or 1,000 classes. Multiply-adds count convolutions and linear\n"
        "layers; batch norm and biases make up the rest of the published numbers. D5's published 130B does not fit\n"
        "its own family by that count; 135B would. AP, top-1 and ms are the papers', not measured here."
    )
