"""``phidet track``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phidet.cli.arguments import (
    add_detector,
    add_out,
    add_runtime,
    class_words,
    number,
    positive,
    share,
    share_or_auto,
    words,
)
from phidet.cli.report import Report, writing
from phidet.core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.protocol import SupportsDetect
    from phidet.detections.sinks.counts import CountSink
    from phidet.detections.tracking.counting import CountSettings
    from phidet.detections.tracking.external import SupportsTrack
    from phidet.images.live import LiveSource
    from phidet.images.sources import SourceImage, Unusable
    from phidet.inference.track import TrackSettings

OUT = Path("tracks")
EPILOG = """\
SOURCE is a video, a folder or a quoted pattern of videos, webcam (webcam:1), or an address (rtsp, http, https, …) of a
camera, a stream or a video; with --fps, images are the frames of a video for each folder. Needs an extra:
pip install 'phidet[track]'

Of cameras and streams, the newest frame is looked at and those that came in the meantime are left out, but for
--every-frame. A connection that ends or falls silent is opened again. A name and a password in an address are never
shown. Files are complete when the command ends (Ctrl-C); --json prints each frame at once.

what --save writes into the folder of --out:
  video   the videos with boxes, ids and ways drawn, named like the originals (the default)
  json    tracks.jsonl: a JSON document on each line, for each frame
  csv     tracks.csv: a line for each track
  parquet tracks.parquet: a row for each frame
  mot     mot/NAME.txt, as MOTChallenge's tools read it
  coco    coco-tracks.json and coco-videos.json
  counts  counts.csv and counts.jsonl, each crossing, arrival and departure with its time; totals.csv
  heat    heat/NAME.png: where objects spent their time

A line is NAME=x1,y1,x2,y2, a zone has more points; shares of the image where all numbers are 0…1, else pixels. From the
left of a line's direction to its right is in: a line drawn from left to right counts what comes down the image as in.

examples:
  phidet track clip.mp4                                     people, drawn in tracks/clip.mp4
  phidet track clip.mp4 -m runs/mine --save video,mot,csv
  phidet track street.mp4 --line kerb=0.1,0.6,0.9,0.6 --zone bench=0.1,0.7,0.4,0.7,0.4,0.95,0.1,0.95
  phidet track clip.mp4 --detect-every 3                    detects on each third frame, with tracks between
  phidet track MOT17/train/MOT17-02/img1 --fps 30 --save mot

exit code: 0; 3 where a source could not be used, named on standard error, after all others are done. After Ctrl-C or
SIGTERM the results so far are kept.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet track``."""
    parser.epilog = EPILOG
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="videos; see below")
    add_detector(parser)
    add_out(parser, "FOLDER", f"where to write ({OUT})")
    parser.add_argument("--save", type=words, metavar="KINDS", help="what to write, separated by commas (video)")
    parser.add_argument("--json", action="store_true", help="print JSON lines; write files only if --save says which")
    parser.add_argument("--classes", action="append", metavar="A,B", help="only these, by name (all)")
    frames = parser.add_argument_group("frames")
    frames.add_argument("--stride", type=positive, default=1, metavar="N", help="look at every N-th frame (1)")
    frames.add_argument(
        "--detect-every", type=positive, default=1, metavar="N", help="detect on every N-th of them (1)"
    )
    frames.add_argument("--fps", type=_rate, metavar="R", help="images are frames of a video, at R a second")
    frames.add_argument("--every-frame", action="store_true", help="of streams, too, however late (the newest)")
    frames.add_argument("--silent", type=_seconds_above_0, metavar="SECONDS", help="when a stream is opened again (10)")
    frames.add_argument("--quiet", action="store_true", help="no line a second about a stream")
    frames.add_argument("--show", action="store_true", help="show the frames in a window")
    frames.add_argument("--sound", action="store_true", help="keep the sound in drawn videos")
    tracks = parser.add_argument_group("tracks")
    tracks.add_argument(
        "--start", type=share_or_auto, metavar="S",
        help="score that begins a track, or auto: the model's own for each class (0.5)",
    )  # fmt: skip
    tracks.add_argument("--low", type=share, metavar="S", help="score that goes on with a track (0.1)")
    tracks.add_argument("--lost", type=_seconds, metavar="SECONDS", help="how long an unseen track waits (1)")
    tracks.add_argument(
        "--relations", metavar="FILE", help="pair detections by a network on frames: an export of --task relations"
    )
    tracks.add_argument("--camera-motion", action="store_true", help="the camera moves: estimate how")
    counts = parser.add_argument_group("counts")
    counts.add_argument("--line", action="append", default=[], metavar="NAME=x1,y1,x2,y2", help="count who crosses")
    counts.add_argument("--zone", action="append", default=[], metavar="NAME=x1,y1,…", help="count who is inside")
    counts.add_argument("--places", type=Path, metavar="FILE", help="lines and zones of a JSON file")
    counts.add_argument("--anchor", choices=("bottom", "centre"), default="bottom", help="point of a box (bottom)")
    detector = parser.add_argument_group("detector")
    detector.add_argument("--iou", type=share, default=0.5, metavar="T", help="overlap of duplicates (0.5)")
    detector.add_argument("--max", type=positive, default=300, metavar="N", help="limit of objects in a frame (300)")
    detector.add_argument("--tile", type=positive, metavar="N", help="also detect on tiles of N pixels")
    add_runtime(detector)
    detector.add_argument("--threads", type=positive, metavar="N", help="of the runtime (one for each usable core)")


def run(args: argparse.Namespace) -> None:
    """Tracks in every source; prints results and files. Errors of sources come last, with their exit code."""
    import msgspec

    from phidet.cli.native_noise import without_native_noise
    from phidet.cli.show import Window
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.sinks.track_sinks import TrackOutputs
    from phidet.detections.thresholds import stored_thresholds
    from phidet.detections.tracking.assignment import import_solver
    from phidet.images.sources import Unusable, check_sources_outside
    from phidet.inference.detector import Detector
    from phidet.inference.tiles import check_tile
    from phidet.inference.track import track_stream

    # An extra that is missing is named before a model is loaded.
    import_solver()
    settings, counting = _settings(args), _counting(args)
    kinds = _kinds(args, counting)
    out = args.out or OUT
    if kinds:
        check_sources_outside(args.sources, out)
    postprocess = PostprocessSettings(score=settings.tracker.low, iou=args.iou, max_detections=args.max)
    check_tile(args.tile, postprocess)
    live = _live_source(args)
    detector = Detector(args.model, runtime=args.runtime, threads=args.threads)
    if args.start == "auto":
        settings = _with_own_scores(settings, stored_thresholds(detector, args.model).scores)
        postprocess = msgspec.structs.replace(postprocess, score=settings.tracker.low)
    if args.classes is not None:
        classes = class_words(args.classes, detector.class_names)
        postprocess = msgspec.structs.replace(postprocess, classes=classes)
    finder, make_tracker = _paired_by_relations(args, detector, settings)
    window = Window() if args.show else None
    # Opened last: a wrong option must not leave an empty output folder behind.
    outputs = TrackOutputs(kinds, out, detector.class_names, counting, sound=args.sound)
    report = TrackReport(args.json, outputs.counts)
    if window is not None:
        window.drawer = outputs.drawer
        outputs.sinks.append(window)
    with writing(outputs.sinks, report), without_native_noise(), _status(args, live, report):
        items = _items(args, out if kinds else None, report, live)
        for item in track_stream(finder, items, postprocess, settings, make_tracker):
            if isinstance(item, Unusable):
                report.failed(item)
                for sink in outputs.sinks:
                    sink.skip(item)
                continue
            # The counts come first: the drawn frame and the report show them.
            for sink in outputs.sinks:
                sink.add(*item)
            report.found(*item)
    detector.close()
    report.raise_for_failures()


def _paired_by_relations(
    args: argparse.Namespace, detector: SupportsDetect, settings: TrackSettings
) -> tuple[SupportsDetect, Callable[[], SupportsTrack] | None]:
    """The detector, with an appearance where the network sees one; and what makes its trackers, ``None`` without."""
    if args.relations is None:
        return detector, None
    from phidet.inference.appearance import seen_by
    from phidet.inference.relations import Relations
    from phidet.inference.track_relations import RelationsTracker

    relations = Relations(args.relations)
    relations.check_detector(detector.class_names)
    if settings.detect_every > 1 or settings.tracker.camera_motion:
        raise ConfigError("--relations pairs detections of every frame: leave out --detect-every and --camera-motion")
    RelationsTracker(relations, settings.tracker)  # raises for a network on single images before anything is written
    finder = seen_by(relations.config.fields, detector, args.model)
    return finder, lambda: RelationsTracker(relations, settings.tracker)


def _settings(args: argparse.Namespace) -> TrackSettings:
    from phidet.detections.tracking.settings import TrackerSettings
    from phidet.inference.track import TrackSettings

    # Options that were not given keep the defaults of TrackerSettings, which are the only place that has them.
    start = None if args.start == "auto" else args.start
    given: dict[str, Any] = {"start": start, "low": args.low, "lost_s": args.lost}
    given = {name: value for name, value in given.items() if value is not None}
    if start is not None:
        # Only what is matched first may begin a track: a lower start lowers that limit, too.
        given["high"] = min(args.start, TrackerSettings().high)
    tracker = TrackerSettings(**given, camera_motion=args.camera_motion)
    return TrackSettings(tracker=tracker, stride=args.stride, detect_every=args.detect_every, tile=args.tile)


def _with_own_scores(settings: TrackSettings, scores: tuple[float, ...]) -> TrackSettings:
    """Tracks of each class begin at a score of its own; what is weaker goes on with them."""
    import msgspec

    tracker = msgspec.structs.replace(settings.tracker, class_scores=scores, low=min(settings.tracker.low, *scores))
    return msgspec.structs.replace(settings, tracker=tracker)


def _counting(args: argparse.Namespace) -> CountSettings | None:
    from phidet.detections.tracking.counting import CountSettings
    from phidet.detections.tracking.places import parse_place, read_places

    places = [parse_place(text) for text in (*args.line, *args.zone)]
    for place, is_line in zip(places, [True] * len(args.line) + [False] * len(args.zone), strict=True):
        if place.is_line != is_line:
            raise ConfigError(f"{place.name}: --line has two points, --zone three or more, got {len(place.points)}")
    if args.places is not None:
        places += read_places(args.places)
    if not places:
        return None
    # Counting forgets a track when the tracker does: it could come back until then.
    waits = _settings(args).tracker.lost_s
    return CountSettings(places=tuple(places), anchor=args.anchor, forget_s=waits)


def _kinds(args: argparse.Namespace, counting: CountSettings | None) -> list[str]:
    from phidet.detections.sinks.track_sinks import TRACK_KINDS

    # With --json alone the results go to standard output and no files are written.
    kinds = args.save if args.save is not None else [] if args.json else ["video", *(["counts"] if counting else [])]
    for kind in kinds:
        if kind not in TRACK_KINDS:
            raise UnknownNameError("kind of output", kind, TRACK_KINDS)
    if args.out is not None and not kinds:
        raise ConfigError("--out needs something to write: --save video, for instance")
    if "counts" in kinds and counting is None:
        raise ConfigError("--save counts needs a line or a zone to count at: --line NAME=x1,y1,x2,y2, --zone, --places")
    if args.sound and "video" not in kinds:
        raise ConfigError("--sound needs drawn videos: --save video")
    return list(dict.fromkeys(kinds))


def _live_source(args: argparse.Namespace) -> LiveSource | None:
    """The camera or stream among the sources."""
    from phidet.core.addresses import without_password
    from phidet.images.live import LiveSettings, LiveSource
    from phidet.images.source_kinds import is_live

    live = [source for source in args.sources if is_live(source)]
    if live and len(args.sources) > 1:
        raise ConfigError(f"{without_password(live[0])} may never end: track it alone")
    if not live:
        return None
    silent = {} if not args.silent else {"silent_s": args.silent}
    return LiveSource(live[0], LiveSettings(newest=not args.every_frame, **silent))


def _status(args: argparse.Namespace, live: LiveSource | None, report: TrackReport) -> AbstractContextManager[object]:
    from phidet.cli.live_status import LiveStatus

    return nullcontext() if live is None or args.quiet else LiveStatus(live, report)


def _items(
    args: argparse.Namespace, out: Path | None, report: Report, live: LiveSource | None
) -> Iterator[SourceImage | Unusable]:
    from phidet.images.ahead import read_ahead
    from phidet.images.sources import read_sources
    from phidet.inference.track import as_video

    if live is not None:
        items = read_sources(args.sources, out, report.note, lambda _: live.frames())
        # What waits would no longer be the newest frame, which is read in a thread of its own anyway.
        return read_ahead(items, stop=live.close) if args.every_frame else items
    # In a thread of its own: frames are decoded while the network runs.
    items = read_ahead(read_sources(args.sources, out, report.note))
    return items if args.fps is None else as_video(items, args.fps)


class TrackReport(Report):
    """Counts tracks instead of objects in a frame; prints events of lines and zones."""

    before = "tracks of "
    unit = "frame"

    def __init__(self, json_lines: bool, counts: CountSink | None) -> None:
        super().__init__(json_lines)
        self._counts = counts
        self.looked_at = self.tracks_now = self.tracks_so_far = 0
        self._highest = 0

    def found(self, item: SourceImage, found: Detections) -> None:
        super().found(item, found)
        self.looked_at += 1
        self.tracks_now = len(found)
        if self._json and self._counts is not None:
            import msgspec

            from phidet.detections.sinks.counts import event_json

            for event in self._counts.latest:
                sys.stdout.buffer.write(msgspec.json.encode(event_json(item, event)) + b"\n")
            sys.stdout.buffer.flush()

    def total(self) -> str:
        """How many tracks there were."""
        from phidet.core.words import count

        return count(self.tracks_so_far, "track")

    def tally(self, so_far: dict[str, int], found: Detections) -> dict[str, int]:
        """Tracks of each class: ids rise, so that those above the highest one are new."""
        import numpy as np

        if not so_far:
            self._highest = 0
        tally = dict(so_far)
        ids = np.asarray(found.fields["track_id"]).tolist()
        for track_id, label in zip(ids, found.labels, strict=True):
            if track_id > self._highest:
                tally[label] = tally.get(label, 0) + 1
                self.tracks_so_far += 1
        self._highest = max(self._highest, *ids, 0)
        return tally


def _rate(text: str) -> float:
    return number(text, "frames a second above 0", lambda value: 0 < value <= 1000)


def _seconds(text: str) -> float:
    return number(text, "seconds, 0 or more", lambda value: 0 <= value < 1e6)


def _seconds_above_0(text: str) -> float:
    return number(text, "seconds above 0", lambda value: 0 < value < 1e6)
