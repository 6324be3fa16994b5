"""``phidet bench --best``: the fastest way to run a model on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import Parser
from phidet.cli.tables import print_json, table
from phidet.core.errors import ConfigError, PhidetError

if TYPE_CHECKING:
    from phidet.inference.bench.best import Found, Way
    from phidet.inference.detector import Detector

SECONDS = 45.0  # for measuring in turns; models are loaded, and answers compared, in the rest of a minute
MOST_IMAGES = 100  # on which AP is compared
SCORE_BOUND, AP_BOUND = 0.01, 0.002


def add_best(parser: Parser) -> None:
    """Adds the options of ``--best``."""
    text = "within a minute, the fastest runtime, precision and threads for MODEL; of several files, also which of them"
    parser.add_argument("--best", action="store_true", help=text)
    text = (
        f"with --best: largest loss of AP with --eval ({AP_BOUND:g}), else mean difference of scores ({SCORE_BOUND:g})"
    )
    parser.add_argument("--within", type=float, metavar="X", help=text)
    parser.add_argument("--keep", action="store_true", help="with --best: run MODEL so from now on, on this machine")


def find_best(args: argparse.Namespace) -> None:
    """Measures and prints every way, and which is the fastest within the bound.

    Raises:
        ConfigError: options that do not go together.
    """
    from phidet.images.decode import read_image
    from phidet.inference.bench.best import measure_ways, score_difference, ways_to_run
    from phidet.inference.bench.measure import sample_image
    from phidet.inference.runtimes.kept import keep
    from phidet.inference.runtimes.open_model import find_model

    if args.within is not None and not args.within >= 0:
        raise ConfigError(f"--within must be a number ≥ 0, got {args.within:g}")
    if args.plot is not None:
        raise ConfigError("--plot is for a table of models: leave out --best")
    images = [read_image(sample_image() if args.image is None else Path(args.image))]
    what, bound = ("AP", AP_BOUND) if args.eval is not None else ("scores", SCORE_BOUND)
    bound = bound if args.within is None else args.within
    compare = score_difference(images) if args.eval is None else _ap_loss(args)
    ways = [way for way in ways_to_run(args.models) if args.runtime in ("all", way.runtime)]
    if not ways:
        raise ConfigError(f"{args.runtime} runs none of these files, or is not installed")

    def failed(way: Way, error: PhidetError) -> None:
        print(f"phidet: {way.model} on {way.runtime}, {way.precision}: {error}", file=sys.stderr)

    found = sorted(measure_ways(ways, images, compare, SECONDS, failed), key=lambda one: -one.images_per_second)
    best = next(one for one in found if one.difference <= bound)  # the first way differs by 0 from itself
    if args.json:
        print_json([one.way._asdict() | one._replace(way=None)._asdict() | {"best": one is best} for one in found])  # type: ignore[arg-type]
    else:
        _print(found, best, f"{what}, loss" if args.eval is not None else f"{what}, difference")
    if args.keep:
        if best.way.model != args.models[0]:
            # The choice is kept beside a file, and means that file.
            raise ConfigError(f"{best.way.model} is another file than {args.models[0]}: use it by its name")
        # All threads for one image is what a detector does by itself, on any number of cores.
        threads = None if best.way.at_once == 1 else best.way.threads
        path = keep(find_model(best.way.model), best.way.runtime, best.way.precision, threads)
        print(f"wrote {path}", file=sys.stderr)


def _ap_loss(args: argparse.Namespace) -> Callable[[Detector, Detector], float]:
    """How much lower the AP of another detector is than the first one's, on some images of ``--eval``."""
    from phidet.core.numbers import evenly_spaced
    from phidet.data.hold_out import validation_data
    from phidet.data.layouts import open_data
    from phidet.evaluation.coco_metrics import evaluate_coco
    from phidet.evaluation.detect_dataset import detect_dataset

    measured: dict[int, float] = {}
    folder = open_data(args.eval, args.layout)

    # On evenly spaced images, so that data in order, by folder or by time, are seen from one end to the other.
    def ap(detector: Detector) -> float:
        data = validation_data(args.models[0], folder, detector.class_names, args.split).dataset
        some = data.subset(list(evenly_spaced(len(data), MOST_IMAGES)), data.name)
        value = evaluate_coco(*detect_dataset(detector, some)).ap
        if value is None:
            raise ConfigError(f"{args.eval} has no objects to measure AP on: leave out --eval")
        return value

    def loss(first: Detector, other: Detector) -> float:
        # All ways are compared with the first one, whose AP is measured once.
        if id(first) not in measured:
            measured[id(first)] = ap(first)
        return measured[id(first)] - (measured[id(first)] if other is first else ap(other))

    return loss


def _print(found: list[Found], best: Found, difference: str) -> None:
    rows = [
        (
            "→" if one is best else "",
            Path(one.way.model).name,
            one.way.runtime,
            one.way.precision,
            f"{one.way.at_once} × {one.way.threads}",
            f"{one.images_per_second:.1f}",
            f"{one.milliseconds:.1f}",
            f"{one.difference:.4f}",
        )
        for one in found
    ]
    print(table(("", "model", "runtime", "precision", "calls × threads", "images/s", "ms", difference), rows))
