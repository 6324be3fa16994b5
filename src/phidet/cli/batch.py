"""``phidet batch``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from phidet.cli.arguments import (
    add_detector,
    add_exact,
    add_runtime,
    add_score,
    add_wanted,
    class_words,
    positive,
    share,
)
from phidet.cli.report import StatusLine
from phidet.core.errors import InputError
from phidet.core.words import count

if TYPE_CHECKING:
    from phidet.inference.batch.run import Model, Pending, Resources, Summary

EPILOG = """\
IN is Parquet files (an id, and images as bytes or addresses), WebDataset tars, a Lance data set (NAME.lance), or a
folder of images: a path, a quoted pattern, or an address of an object store (s3://bucket/folder, gs://…; needs s3fs,
gcsfs). OUT is a folder of either kind. Needs an extra: pip install 'phidet[batch]'

Each part of IN becomes one Parquet file in OUT: id, image_width, image_height, detections (a list of structs), error,
model, version. A part is a Parquet file (of large ones, some row groups), a tar, a fragment, or --part-size images of
a folder. A file appears whole when its part is done and is skipped the next time: whatever ends a run, the same command
goes on where it ended. Another model or other settings in the same OUT are refused.

examples:
  phidet batch photos found                                 a folder of images, people
  phidet batch s3://bucket/crawl s3://bucket/found -m runs/mine --score 0.5
  phidet batch 'shards/*.tar' found --dry-run               what there is to do
  phidet batch data.lance found --cluster ray://head:10001  on a Ray cluster: pip install 'phidet[batch-ray]'

exit code: 0; 3 where a part could not be read, named on standard error, after all others are done; bad images are rows
with their error. After Ctrl-C or SIGTERM (130, 143) finished parts stay.
"""
_EVERY_S = 30.0  # between two lines of progress in a log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet batch``."""
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="IN", help="images; see below")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    add_detector(parser)
    add_score(parser)
    parser.add_argument("--iou", type=share, default=0.5, metavar="T", help="overlap of duplicates (0.5)")
    add_wanted(parser)
    add_exact(parser)
    add_runtime(parser)
    table = parser.add_argument_group("input")
    table.add_argument("--id", metavar="COLUMN", help="column of the id (found by name)")
    table.add_argument("--image", metavar="COLUMN", help="column of the bytes or the address (found by name and type)")
    table.add_argument(
        "--part-size", type=positive, default=1_000, metavar="N",
        help="images in a part: of a folder, and at least of a Parquet file (1000)",
    )  # fmt: skip
    machine = parser.add_argument_group("machine")
    machine.add_argument("--workers", type=positive, metavar="N", help="processes, each with the model (one a core)")
    machine.add_argument("--threads", type=positive, metavar="N", help="of each process (the cores, shared out)")
    machine.add_argument("--cluster", metavar="ADDRESS", help="a Ray cluster: an address, auto, or local")
    machine.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")


def run(args: argparse.Namespace) -> None:
    """Detects in all parts that are not done yet; raises for parts that could not be read at the end."""
    from phidet.cli.native_noise import without_native_noise
    from phidet.core.optional import optional_package
    from phidet.inference.batch.engine import daft_engine
    from phidet.inference.batch.parts import Wanted
    from phidet.inference.batch.run import Resources, prepare, shares
    from phidet.inference.batch.run import run as run_batch

    if not args.dry_run:  # before anything is looked at that may take minutes
        optional_package("daft", "phidet batch", "batch")
    # Looks at everything and writes nothing, so that a dry run is this and no more.
    pending = prepare(args.source, args.out, _model(args), Wanted(args.id, args.image, args.part_size))
    workers, threads = args.workers, args.threads or 1
    if args.cluster is None:
        # On a cluster its own scheduler knows the machines; here the cores are shared out.
        workers, threads = shares(len(pending.jobs), args.workers, args.threads)
    resources = Resources(workers, threads, args.batch, args.cluster)
    _say(pending, resources)
    if args.dry_run or not pending.jobs:
        return
    progress = _Progress(pending)
    # Engines log what a lost worker or a slow end means to them; what it means here is said by the run.
    with without_native_noise():
        try:
            summary = run_batch(pending, daft_engine, resources, progress.tell)
        finally:
            progress.clear()
    _sum_up(summary, args.out)


def _model(args: argparse.Namespace) -> Model:
    import msgspec

    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.thresholds import stored_thresholds
    from phidet.inference.batch.run import Model
    from phidet.inference.detector import Detector
    from phidet.inference.tiles import check_tile

    settings = PostprocessSettings(score=args.score, iou=args.iou, max_detections=args.max)
    check_tile(args.tile, settings)
    # Opened here only to check what is asked of it: workers open it again where they run.
    if args.classes is not None or args.score == "auto":
        with Detector(args.model, runtime=args.runtime, threads=1) as detector:
            names = detector.class_names
            if args.score == "auto":
                stored_thresholds(detector, args.model)  # raises where it has none
        settings = msgspec.structs.replace(settings, classes=class_words(args.classes or [], names) or None)
    return Model(model=args.model, runtime=args.runtime, settings=settings, tile=args.tile, exact=args.exact)


def _say(pending: Pending, resources: Resources) -> None:
    """Prints what there is to do."""
    planned, about = pending.plan, pending.about
    what = {"parquet": "Parquet", "tar": "WebDataset tars", "lance": "Lance", "images": "a folder of images"}
    columns = planned.columns
    named = "" if columns is None else f", id in {columns.id!r}, image in {columns.image!r}"
    done = len(planned.parts) - len(pending.jobs)
    images = "" if pending.images is None else f", {count(pending.images, 'image')}"
    print(f"{about.input}: {what[planned.kind]}{named}; {count(len(planned.parts), 'part')}, {done:,} done before")
    where = f"on the cluster {resources.cluster}" if resources.cluster else f"in {count(resources.workers, 'process')}"
    threads = f"{count(resources.threads, 'thread')} each"
    model = f"{about.detection.model}, version {about.detection.version}"
    print(f"to do: {count(len(pending.jobs), 'part')}{images}, {where}, {threads}, with {model}", flush=True)


def _sum_up(summary: Summary, out: str) -> None:
    """Prints what was done; raises for what was not."""
    rate = summary.images / max(summary.seconds, 1e-9)
    print(
        f"{count(summary.images, 'image')} in {count(summary.parts, 'part')}, {count(summary.objects, 'object')}, "
        f"{count(summary.errors, 'image')} with errors; {_clock(summary.seconds)}, {rate:,.1f} images a second; "
        f"{count(summary.skipped, 'part')} done before; wrote {out}"
    )
    # Last, so that what failed is not lost above the summary of a long run.
    for name, error in sorted(summary.failed.items()):
        print(f"phidet: {name}: {error}", file=sys.stderr)
    if summary.failed:
        raise InputError(f"{count(len(summary.failed), 'part')} not done: the same command tries again")


class _Progress:
    """Parts, images, rate and what is left: on one line of a terminal, in a log every half minute."""

    def __init__(self, pending: Pending) -> None:
        self._parts, self._images = len(pending.jobs), pending.images
        self._line = StatusLine()
        self._shown = time.monotonic()

    def tell(self, summary: Summary) -> None:
        """Shows how far the run is."""
        now = time.monotonic()
        if not self._line.is_terminal and now - self._shown < _EVERY_S:
            return
        self._shown = now
        parts = summary.parts + len(summary.failed)
        # By images where their number is known: parts may differ in size.
        share = summary.images / self._images if self._images else parts / self._parts
        left = f", {_clock(summary.seconds * (1 / share - 1))} left" if share > 0 else ""
        rate = summary.images / max(summary.seconds, 1e-9)
        self._line.tell(
            f"{parts:,} of {count(self._parts, 'part')}, {count(summary.images, 'image')}, {rate:,.1f} a second{left}"
        )

    def clear(self) -> None:
        """Removes the line of progress."""
        self._line.clear()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
