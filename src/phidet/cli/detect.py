"""``phidet detect``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import (
    add_arithmetic,
    add_detector,
    add_exact,
    add_out,
    add_runtime,
    add_score,
    add_wanted,
    class_words,
    positive,
    share,
    words,
)
from phidet.cli.published import add_download, ensure_published
from phidet.cli.report import Report, writing
from phidet.core.errors import ConfigError

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.protocol import SupportsDetect
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.sinks import Sink
    from phidet.images.sources import SourceImage, Unusable
    from phidet.inference.detector import Detector
    from phidet.inference.relations import Relations

OUT = Path("detections")
MOST_AT_ONCE = 16
"""Images that go through the network at a time: decoding them and writing answers is not faster than that."""
MOST_PIXELS = 2**21
"""Of their input together: eight images of D0, one of D7 or of DETR, about a gigabyte of maps."""
EPILOG = """\
SOURCE is an image or a video, a folder (searched recursively), a quoted pattern ('photos/**/*.jpg'), the http
or https address of an image, - for an image on standard input, or webcam (webcam:1). Videos and webcams need an
extra: pip install 'phidet[video]'

what --save writes into the folder of --out:
  images  annotated images and videos, named like the originals (the default)
  json      detections.jsonl: a JSON document on each line, for each image or frame
  csv       detections.csv: a line for each object
  coco      coco-results.json and coco-images.json
  yolo      labels/NAME.txt and classes.txt
  parquet   detections.parquet: a row for each image
  crops     crops/CLASS/NAME-1.jpg, with masks .png
  instances instances/NAME.png: the object at each pixel
  panoptic  panoptic.json, panoptic/NAME.png: COCO's segments
  semantic  semantic/NAME.png: the class at each pixel

examples:
  phidet detect photo.jpg                                   people, drawn in detections/photo.jpg
  phidet detect photos --save images,csv --score 0.5
  phidet detect photos -m runs/mine --score auto            each class from its best score on the validation data
  phidet detect -m runs/mine aerial.tif --tile 640          a model of your own, in tiles of 640 pixels
  phidet detect clip.mp4 --classes person,dog
  cat photo.jpg | phidet detect - --json                    JSON lines on standard output, no files

exit code: 0; 3 where a source could not be used, named on standard error, after all others are done (5 where all such
could not be downloaded, 6 where all such need an extra). After Ctrl-C, SIGTERM, or where standard output is not read
any more (130, 143, 141) the results so far are kept.
"""
_NMS = {"hard": "hard", "soft": "gaussian", "none": "none"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet detect``."""
    parser.epilog = EPILOG
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="images or videos; see below")
    add_detector(parser)
    parser.add_argument(
        "--relations", metavar="FILE", help="correct what is found by relations: an export of --task relations"
    )
    add_out(parser, "FOLDER", f"where to write ({OUT})")
    parser.add_argument("--save", type=words, metavar="KINDS", help="what to write, separated by commas (images)")
    parser.add_argument("--json", action="store_true", help="print JSON lines; write files only if --save says which")
    add_score(parser)
    parser.add_argument(
        "--segment-score", type=share, metavar="S", help="lowest score of a segment, 0…1 (what is usual of the network)"
    )
    parser.add_argument("--iou", type=share, metavar="T", help="overlap of duplicates, not for soft (0.5)")
    parser.add_argument("--nms", choices=_NMS, help="suppression of duplicates (hard)")
    add_wanted(parser)
    add_download(parser)
    add_exact(parser)
    add_arithmetic(parser)
    add_runtime(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="of the runtime for an image (by the sources)")


def run(args: argparse.Namespace) -> None:
    """Detects on every source; prints results and files. Errors of sources come last, with their exit code."""
    from phidet.core.machine import import_numpy_with_one_thread

    # Detecting multiplies no matrices outside the network's runtime.
    import_numpy_with_one_thread()
    import msgspec

    from phidet.cli.native_noise import without_native_noise
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.sinks import open_sinks
    from phidet.detections.thresholds import stored_thresholds
    from phidet.images.sources import check_sources_outside, read_sources
    from phidet.inference.stream import needed_by

    # With --json alone the results go to standard output and no files are written.
    kinds = args.save if args.save is not None else [] if args.json else ["images"]
    if args.out is not None and not kinds:
        raise ConfigError("--out needs something to write: --save images, for instance")
    out = args.out or OUT
    if kinds:
        check_sources_outside(args.sources, out)
    settings = PostprocessSettings(
        score=args.score,
        iou=0.5 if args.iou is None else args.iou,
        nms=_NMS[args.nms or "hard"],  # type: ignore[arg-type]
        max_detections=args.max,
        segment_score=args.segment_score,
    )
    if args.tile is not None:
        from phidet.inference.tiles import check_tile

        check_tile(args.tile, settings)
    # A model that is not here is downloaded only after asking, before anything else is done.
    ensure_published(args.model, args.download)
    threads, at_once = _threads(args)
    detector = _open_detector(args, threads, at_once)
    # A large network's maps take gigabytes, and its layers keep several threads busy: fewer images, more threads each.
    fewer = at_once_within_memory(getattr(detector, "config", None), args.batch, at_once)
    if fewer < at_once:
        detector.close()
        # Opened again: the network was loaded for more calls at a time than its maps have memory for.
        threads, at_once = args.threads or at_once // fewer, fewer
        detector = _open_detector(args, threads, at_once)
    if args.score == "auto":
        stored_thresholds(detector, args.model)
    if args.relations is not None and args.score == "auto":
        # Thresholds were measured on the detector's own scores.
        raise ConfigError("--relations changes the scores that the model's thresholds are of: give --score a number")
    relations, finder = _open_relations(args, detector)
    # Tiles are merged by the same settings, whatever the network.
    unused = [f"--{name}" for name in ("nms", "iou") if getattr(args, name) is not None]
    architecture = getattr(detector, "architecture", None)  # whatever else detects has none
    if unused and args.tile is None and architecture is not None and not architecture.suppresses:
        print(f"{args.model} suppresses nothing: {' and '.join(unused)} changes nothing", file=sys.stderr)
    # Names can only be checked once the model is open; still before any file is written.
    if args.classes is not None:
        settings = msgspec.structs.replace(settings, classes=class_words(args.classes, detector.class_names))
    # Opened last: a wrong option must not leave an empty output folder behind.
    sinks = open_sinks(kinds, out, detector.class_names)
    report = Report(args.json)
    with writing(sinks, report), without_native_noise():
        # Tiles are cut from all pixels.
        needed = None if args.tile is not None else needed_by(finder)
        sources = read_sources(args.sources, out if kinds else None, report.note, needed=needed)
        _record(_found(finder, relations, args, settings, sources, at_once), sinks, report)
    detector.close()
    report.raise_for_failures()


def _threads(args: argparse.Namespace) -> tuple[int | None, int]:
    """Threads of the network for one call, and the number of calls at a time; 0 for one when its answer is asked for.

    Several images on one thread each are faster than one after the other on all: no thread waits for another one at
    the end of every layer, and images are prepared meanwhile.
    """
    from phidet.core.machine import idle_cores, usable_physical_cores
    from phidet.images.source_kinds import is_stream, is_webcam
    from phidet.images.sources import is_one_image

    if any(is_webcam(source) or is_stream(source) for source in args.sources):
        return args.threads, 0  # a camera's frame must not wait for the next one
    if args.device != "cpu":
        return args.threads, 1  # the GPU works on one batch after the other; images are prepared meanwhile
    if len(args.sources) == 1 and is_one_image(args.sources[0]):
        return args.threads or idle_cores(), 1
    threads = args.threads or 1
    return threads, min(MOST_AT_ONCE, max(1, usable_physical_cores() // threads))


def _open_detector(args: argparse.Namespace, threads: int | None, at_once: int) -> Detector:
    from phidet.inference.detector import Detector

    return Detector(
        args.model,
        runtime=args.runtime,
        threads=threads,
        precision=args.precision,
        device=args.device,
        at_once=max(1, at_once),
        exact=args.exact,
    )


def at_once_within_memory(config: object, batch: int, at_once: int) -> int:
    """How many of ``at_once`` calls of a network of ``config``, with ``batch`` images each, may run at a time."""
    height, width = getattr(config, "image_size_hw", (1, 1))
    return min(at_once, max(1, MOST_PIXELS // (batch * height * width)))


def _open_relations(args: argparse.Namespace, detector: SupportsDetect) -> tuple[Relations | None, SupportsDetect]:
    """What corrects the detections, ``None`` for nothing; and the detector, with an appearance where that is seen."""
    if args.relations is None:
        return None, detector
    from phidet.inference.relations import open_relations

    return open_relations(args.relations, detector, args.model)


def _found(
    detector: SupportsDetect,
    relations: Relations | None,
    args: argparse.Namespace,
    settings: PostprocessSettings,
    sources: Iterable[SourceImage | Unusable],
    at_once: int,
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    """What is found in each source, corrected by ``relations``."""
    from phidet.images.sources import Unusable
    from phidet.inference.stream import detect_stream

    batch = args.batch if at_once else 1  # a camera's frame must not wait for others
    if relations is None:
        yield from detect_stream(detector, sources, settings, batch, args.tile, at_once)
        return
    from phidet.inference.relations import seen_with

    # Tiles are put together first: relations are between the objects of a whole image.
    for item in detect_stream(detector, sources, seen_with(relations, settings), batch, args.tile, at_once):
        if isinstance(item, Unusable):
            yield item
        else:
            yield item[0], relations(item[1]).filter(settings.least_score, settings.classes)


def _record(items: Iterable[tuple[SourceImage, Detections] | Unusable], sinks: Sequence[Sink], report: Report) -> None:
    from phidet.images.sources import Unusable

    for item in items:
        if isinstance(item, Unusable):
            report.failed(item)
            for sink in sinks:
                sink.skip(item)
        else:
            report.found(*item)
            for sink in sinks:
                sink.add(*item)
