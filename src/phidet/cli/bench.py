"""``phidet bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import (
    RUNTIMES,
    add_arithmetic,
    add_json,
    add_layout,
    add_runtime,
    add_score,
    add_split,
)
from phidet.cli.bench_best import add_best, find_best
from phidet.cli.tables import or_dash, print_json, table
from phidet.core.errors import ConfigError, PhidetError

if TYPE_CHECKING:
    from phidet.data.dataset import Dataset
    from phidet.inference.bench.measure import Measurement, Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet bench``."""
    parser.epilog = (
        "Every model runs on every installed runtime that can run its file, each in a process of its own.\n"
        "Precisions are files: 'phidet export' makes one in fp16 or int8."
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="as for phidet detect -m")
    add_runtime(parser, ("all", *RUNTIMES[1:]))
    parser.add_argument("--threads", type=int, metavar="N", help="of the runtime (one for each usable core)")
    parser.add_argument("--batch", type=_sizes, default=(1, 8), metavar="N,N", help="batches for throughput (1,8)")
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="timed runs of each (10, as in the papers)")
    add_score(parser, "lowest score of what post-processing is timed on")
    parser.add_argument("--image", metavar="FILE", help="a photograph to time with (noise of 640×480)")
    parser.add_argument("--picture", dest="image", help=argparse.SUPPRESS)  # its earlier name
    parser.add_argument("--eval", type=Path, metavar="DATA", help="also measure AP on this data")
    add_split(parser, "--eval")
    add_layout(parser)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw AP over latency; needs --eval")
    add_arithmetic(parser)
    add_best(parser)
    add_json(parser)


def _sizes(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers ≥ 1 separated by commas, as in 1,8, got {text!r}")
    return tuple(map(int, words))


def run(args: argparse.Namespace) -> None:
    """Measures and prints."""
    import msgspec

    if args.best:
        find_best(args)
        return
    _check(args)
    # Before minutes of measuring: data that cannot be read must not end the run after them.
    data = {} if args.eval is None else _data(args)
    measured: list[Measurement] = []
    failed: list[PhidetError] = []
    for request in _requests(args):
        try:
            measured.append(_measured(request))
        except PhidetError as error:  # the others are still measured
            failed.append(error)
            print(f"phidet: {error}", file=sys.stderr)
    ap = [None if args.eval is None else _ap(m, data) for m in measured]
    if args.json:
        # Batch sizes are keys of the throughput: JSON allows strings only.
        rows = [msgspec.to_builtins(m, str_keys=True) | {"ap": value} for m, value in zip(measured, ap, strict=True)]
        print_json(rows)
    elif measured:
        _print(measured, ap)
    points = [(m, value) for m, value in zip(measured, ap, strict=True) if value is not None]
    if args.plot is not None and points:
        from phidet.inference.bench.plot import save_latency_accuracy

        save_latency_accuracy(points, args.plot)
        print(f"wrote {args.plot}", file=sys.stderr)
    # After the results of the others were printed, so that one bad model does not hide them.
    if failed:
        summary = PhidetError(f"{len(failed)} of {len(failed) + len(measured)} could not be measured")
        summary.exit_code = failed[0].exit_code
        raise summary


def _check(args: argparse.Namespace) -> None:
    if args.keep or args.within is not None:
        raise ConfigError("--keep and --within go with --best")
    if args.plot is not None and args.eval is None:
        raise ConfigError("--plot draws AP over latency: say with --eval on which data to measure AP")
    if args.runs < 1:
        raise ConfigError(f"--runs must be a whole number ≥ 1, got {args.runs}")
    if args.plot is not None:
        from phidet.inference.bench.plot import kind_of

        kind_of(args.plot)  # rejects a wrong file ending now, not after minutes


def _requests(args: argparse.Namespace) -> list[Request]:
    from phidet.inference.bench.measure import Request
    from phidet.inference.runtimes.open_model import find_model, runtimes_for
    from phidet.inference.runtimes.options import Runtime

    requests = []
    for model in args.models:
        runtimes: list[Runtime] = ["openvino"] if args.precision == "bf16" else runtimes_for(find_model(model))
        # A runtime that is asked for explicitly is tried even where it does not suit the file, and then says why.
        if args.runtime != "all":
            runtimes = [args.runtime]
        requests += [
            Request(
                model=model,
                runtime=runtime,
                threads=args.threads,
                device=args.device,
                precision="bf16" if args.precision == "bf16" else "file",
                batches=args.batch,
                runs=args.runs,
                score=args.score,
                image=args.image,
            )
            for runtime in runtimes
        ]
    if not requests:
        raise ConfigError("none of these models has an installed runtime: pip install 'phidet[train]' or '[openvino]'")
    return requests


def _measured(request: Request) -> Measurement:
    import subprocess

    import msgspec

    from phidet.inference.bench.measure import Measurement

    # A process of its own: runtimes share thread pools and allocators, and peak memory is counted per process.
    command = [sys.executable, "-m", "phidet.inference.bench.measure", msgspec.json.encode(request).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        error = PhidetError(f"{request.model} could not be measured on {request.runtime}: {last}")
        error.exit_code = max(1, done.returncode)  # below 0 after a signal
        raise error
    # The last line is the result; runtimes may print lines of their own before it.
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measurement)


def _data(args: argparse.Namespace) -> dict[str, Dataset]:
    """What AP is measured on, for each model."""
    from phidet.data.hold_out import validation_data
    from phidet.data.layouts import open_data
    from phidet.inference.detector import Detector

    found = {}
    for model in args.models:
        try:
            with Detector(model, runtime="auto" if args.runtime == "all" else args.runtime) as detector:
                class_names = detector.class_names
        except PhidetError:
            # A model that cannot be opened is reported once, by its measurement.
            continue
        # For each model its own: the run of one may have held out other images than that of another.
        found[model] = validation_data(model, open_data(args.eval, args.layout), class_names, args.split).dataset
    return found


def _ap(measurement: Measurement, data: Mapping[str, Dataset]) -> float | None:
    from phidet.evaluation.coco_metrics import evaluate_coco
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.inference.detector import Detector
    from phidet.inference.runtimes.options import Arithmetic

    # Already reported as failed when its classes were read.
    if measurement.model not in data:
        return None
    precision: Arithmetic = "bf16" if measurement.precision == "bf16" else "file"
    with Detector(measurement.model, runtime=measurement.runtime, precision=precision) as detector:  # type: ignore[arg-type]
        return evaluate_coco(*detect_dataset(detector, data[measurement.model])).ap


def _print(measured: list[Measurement], ap: list[float | None]) -> None:
    rows = [
        (
            Path(m.model).name,
            m.runtime,
            m.precision,
            f"{m.network.mean:.1f} ± {m.network.deviation:.1f}",
            f"{m.network.median:.1f}",
            f"{m.network.p95:.1f}",
            *(f"{m.stages[stage].median:.1f}" for stage in ("decode", "resize", "post")),
            " ".join(f"{rate:.0f} ({batch})" for batch, rate in m.images_per_second.items()),
            or_dash(m.memory_mib, "{:.0f}"),
            or_dash(value, "{:.3f}"),
        )
        for m, value in zip(measured, ap, strict=True)
    ]
    network = ("network, ms", "median", "p95")
    print(
        table(
            ("model", "runtime", "weights", *network, "decode", "resize", "post", "images/s (batch)", "MiB", "AP"), rows
        )
    )
    # What masks cost has a table of its own: most models have none.
    masked = [
        (
            Path(m.model).name,
            m.runtime,
            *(f"{m.decoding[kind].times.median:.1f}" for kind in ("boxes", "masks")),
            *(f"{m.decoding[kind].memory_mib:.1f}" for kind in ("boxes", "masks")),
        )
        for m in measured
        if m.decoding
    ]
    if masked:
        header = ("post, 100 objects", "runtime", "boxes, ms", "masks, ms", "boxes, MiB", "masks, MiB")
        print(f"\n{table(header, masked)}")
