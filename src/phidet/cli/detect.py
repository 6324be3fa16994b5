"""``phidet detect``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_out, add_runtime
from phidet.core.errors import ConfigError, InputError, PhidetError

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.protocol import SupportsDetect
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.sinks import Sink
    from phidet.images.sources import SourceImage, Unusable
    from phidet.inference.relations import Relations

OUT = Path("detections")
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
  crops     crops/CLASS/NAME-1.jpg

examples:
  phidet detect photo.jpg                                   people, drawn in detections/photo.jpg
  phidet detect photos --save images,csv --score 0.5
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
    parser.add_argument(
        *("-m", "--model"),
        default="person",
        metavar="MODEL",
        help="person (bundled), an export (.onnx, .xml, .tflite), a run's folder, a published name (person)",
    )
    parser.add_argument(
        "--relations", metavar="FILE", help="correct what is found by relations: an export of --task relations"
    )
    add_out(parser, "FOLDER", f"where to write ({OUT})")
    parser.add_argument("--save", type=_kinds, metavar="KINDS", help="what to write, separated by commas (images)")
    parser.add_argument("--json", action="store_true", help="print JSON lines; write files only if --save says which")
    parser.add_argument("--score", type=_share, default=0.3, metavar="S", help="lowest score, 0…1 (0.3)")
    parser.add_argument("--iou", type=_share, metavar="T", help="overlap of duplicates, not for soft (0.5)")
    parser.add_argument("--nms", choices=_NMS, help="suppression of duplicates (hard)")
    parser.add_argument("--classes", action="append", metavar="A,B", help="only these, by name (all)")
    parser.add_argument("--max", type=_positive, default=100, metavar="N", help="limit of objects in an image (100)")
    parser.add_argument(
        "--tile", type=_positive, metavar="N", help="also detect on overlapping tiles of N pixels, for small objects"
    )
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="images, or tiles, at once (1)")
    add_runtime(parser)
    parser.add_argument("--threads", type=_positive, metavar="N", help="of the runtime (one for each usable core)")


def run(args: argparse.Namespace) -> None:
    """Detects on every source; prints results and files. Errors of sources come last, with their exit code."""
    import msgspec

    from phidet.cli.native_noise import without_native_noise
    from phidet.cli.signals import ended_by_sigterm
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.sinks import open_sinks
    from phidet.images.sources import check_sources_outside
    from phidet.inference.detector import Detector
    from phidet.inference.tiles import check_tile

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
    )
    if args.tile is not None:
        check_tile(args.tile, settings)
    detector = Detector(args.model, runtime=args.runtime, threads=args.threads)
    relations = _open_relations(args.relations, detector.class_names)
    # Tiles are merged by the same settings, whatever the network.
    unused = [f"--{name}" for name in ("nms", "iou") if getattr(args, name) is not None]
    architecture = getattr(detector, "architecture", None)  # whatever else detects has none
    if unused and args.tile is None and architecture is not None and not architecture.suppresses:
        print(f"{args.model} suppresses nothing: {' and '.join(unused)} changes nothing", file=sys.stderr)
    # Names can only be checked once the model is open; still before any file is written.
    if args.classes is not None:
        settings = msgspec.structs.replace(settings, classes=_classes(args.classes, detector.class_names))
    # Opened last: a wrong option must not leave an empty output folder behind.
    sinks = open_sinks(kinds, out, detector.class_names)
    report = Report(args.json)
    try:
        with without_native_noise(), ended_by_sigterm():
            found = _found(detector, relations, args, settings, report, out if kinds else None)
            _record(found, sinks, report)
    except (KeyboardInterrupt, SystemExit):
        _keep(sinks, report)
        raise
    except BrokenPipeError:
        report.quiet = True  # standard output is closed; the files are still written
        _keep(sinks, report)
        raise
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    _keep(sinks, report)
    detector.close()
    report.raise_for_failures()


def _open_relations(name: str | None, class_names: tuple[str, ...]) -> Relations | None:
    """What corrects the detections of a detector of these classes, ``None`` for nothing."""
    if name is None:
        return None
    from phidet.inference.relations import Relations

    relations = Relations(name)
    relations.check_detector(class_names)
    return relations


def _found(
    detector: SupportsDetect,
    relations: Relations | None,
    args: argparse.Namespace,
    settings: PostprocessSettings,
    report: Report,
    out: Path | None,
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    """What is found in each source, corrected by ``relations``."""
    import msgspec

    from phidet.images.sources import Unusable, read_sources
    from phidet.images.video import is_webcam
    from phidet.inference.stream import detect_stream

    batch = (
        1 if any(is_webcam(source) for source in args.sources) else args.batch
    )  # a camera's frame must not wait for others
    sources = read_sources(args.sources, out, report.note)
    if relations is None:
        yield from detect_stream(detector, sources, settings, batch, args.tile)
        return
    # Relations see everything that they were trained with; what the user wants of it is chosen afterwards.
    seen = msgspec.structs.replace(settings, score=min(settings.score, relations.settings().score), classes=None)
    for item in detect_stream(detector, sources, seen, batch, args.tile):
        if isinstance(item, Unusable):
            yield item
        else:
            yield item[0], relations(item[1]).filter(settings.score, settings.classes)


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


def _keep(sinks: Sequence[Sink], report: Report) -> None:
    """Closes all sinks; if one fails, the others are still closed."""
    errors: list[PhidetError] = []
    written: list[str] = []
    for sink in sinks:
        try:
            # Errors are collected: the results of a whole run must not be lost because one disk or folder failed.
            written.append(sink.keep())
        except PhidetError as error:
            sink.discard()
            errors.append(error)
    report.done([w for w in written if w])
    if errors:
        raise errors[0]


def _classes(given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes: a word of the command line is one that the model knows, or several separated by commas."""
    from phidet.detections.detections import Detections

    wanted = [name for text in given for name in ([text] if text in names else _words(text))]
    Detections.empty(names).filter(classes=wanted)  # raises for an unknown name before anything is written
    return tuple(wanted)


class Report:
    """Output during a run: a line for each image or video on standard output, progress and errors on standard
    error."""

    def __init__(self, json_lines: bool) -> None:
        self.quiet = False
        self._json = json_lines
        self._start = self._shown = time.monotonic()
        self._images = self._objects = 0
        self._previous: SourceImage | None = None
        self._errors: list[PhidetError] = []
        self._progress = sys.stderr.isatty()
        self._video: tuple[str, int, dict[str, int]] | None = None  # source, frames, most of each class in a frame

    def found(self, item: SourceImage, found: Detections) -> None:
        """Reports an image or frame."""
        from phidet.detections.sinks.json_csv import json_line

        self._images += 1
        self._objects += len(found)
        # Frames of a video are summed up in one line, which is printed when the next source begins.
        if not item.continues(self._previous):
            self._end_video()
        self._previous = item
        if self._json:
            # Flushed for each image, so that a reader of the pipe gets results while a video runs.
            sys.stdout.buffer.write(json_line(item, found))
            sys.stdout.buffer.flush()
        elif item.frame is None:
            self._say(f"{item.source}: {_counts(found.counts())}")
        else:
            most = self._video[2] if self._video else {}
            # The largest number of each class in a single frame: summing over frames would count one object many times.
            most = {**most, **{name: max(n, most.get(name, 0)) for name, n in found.counts().items()}}
            self._video = (item.source, item.frame + 1, most)
        self._show_progress()

    def failed(self, unusable: Unusable) -> None:
        """Reports a source, or the rest of one, that cannot be used."""
        from phidet.detections.sinks.base import readable
        from phidet.detections.sinks.json_csv import error_line

        self._end_video()
        self._errors.append(unusable.error)
        if self._json:
            sys.stdout.buffer.write(error_line(unusable))
            sys.stdout.buffer.flush()
        self._clear()
        print(f"phidet: {readable(str(unusable.error))}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Prints a note for the user that is not an error."""
        from phidet.detections.sinks.base import readable

        self._clear()
        print(f"phidet: {readable(text)}", file=sys.stderr)

    def done(self, written: Sequence[str]) -> None:
        """The last line: how many, how fast, and what was written."""
        from phidet.detections.sinks.base import count

        self._end_video()
        self._clear()
        seconds = time.monotonic() - self._start
        parts = [f"{count(self._images, 'image')}, {count(self._objects, 'object')}"]
        if self._errors:
            parts[0] += f", {count(len(self._errors), 'error')}"
        if self._images > 1:
            parts.append(f"{self._images / seconds:.1f} images a second")
        if written:
            parts.append(f"wrote {', '.join(written)}")
        print("; ".join(parts), file=sys.stderr)

    def raise_for_failures(self) -> None:
        """Raises one error for all that failed, with the exit code that they share, else that of InputError."""
        if not self._errors:
            return
        # One exit code for scripts: that of the failures where they agree.
        codes = {error.exit_code for error in self._errors}
        many = len(self._errors)
        summary = PhidetError("1 source could not be used" if many == 1 else f"{many} sources could not be used")
        summary.exit_code = codes.pop() if len(codes) == 1 else InputError.exit_code
        raise summary

    def _end_video(self) -> None:
        if self._video is not None:
            source, frames, most = self._video
            self._video = None
            self._say(f"{source}: {frames:,} frames, {_counts(most, 'at most ')}")

    def _say(self, line: str) -> None:
        from phidet.detections.sinks.base import readable

        self._clear()
        if not self.quiet:
            print(readable(line), flush=True)

    def _show_progress(self) -> None:
        from phidet.detections.sinks.base import count

        now = time.monotonic()
        if self._progress and now - self._shown > 0.2:
            self._shown = now
            done = f"{count(self._images, 'image')}, {self._images / (now - self._start):.1f} a second"
            print(f"\r\033[K{done}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._progress:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _counts(counts: dict[str, int], before: str = "") -> str:
    return before + ", ".join(f"{n} {name}" for name, n in counts.items()) if counts else "nothing"


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"expected names separated by commas, got {text!r}")
    return words


def _kinds(text: str) -> list[str]:
    try:
        return _words(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in 0…1, got {text!r}")
    return value


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number ≥ 1, got {text!r}")
    return int(text)
