"""The tracker's time per frame, and its tracks beside those of ByteTrack of ``trackers`` where that is installed.

    python benchmarks/tracking.py                 100 objects, median over 300 frames
    python benchmarks/tracking.py --against-trackers   TUD's videos of motmetrics, three levels of noise
    python benchmarks/tracking.py --end-to-end         a video of 1080p: frames a second beside the network's own

The second needs motmetrics, trackeval and trackers; the same detections go to both, with the settings that each has by
default. The third takes turns, so that a busy machine slows all alike, and prints processor time, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from phidet import Detections, Detector, PostprocessSettings, Tracker, TrackerSettings
from phidet.detections.sinks.track_sinks import TrackOutputs
from phidet.images.ahead import read_ahead
from phidet.images.sources import Unusable, read_sources
from phidet.images.video import video_frames
from phidet.images.video_writer import VideoWriter
from phidet.inference.track import TrackSettings, track_stream

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--against-trackers", action="store_true")
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.end_to_end:
        end_to_end()
        return
    if args.against_trackers:
        compare(args.seeds)
    else:
        measure(args.objects, args.frames)


def measure(objects: int, frames: int) -> None:
    """Milliseconds of one ``update``, and of estimating the camera's motion."""
    rng = np.random.default_rng(0)
    start, speed = rng.uniform(0, 1, (objects, 2)) * (1920, 1080), rng.normal(0, 80, (objects, 2))
    size = rng.uniform(30, 120, (objects, 2))
    tracker, seconds, most = Tracker(), [], 0
    for i in range(frames):
        centres = start + speed * i / 25 + rng.normal(0, 1, (objects, 2))
        seen = rng.random(objects) > 0.1
        boxes = np.concatenate((centres - size / 2, centres + size / 2), axis=1)[seen].astype(np.float32)
        scores = rng.uniform(0.2, 1, len(boxes)).astype(np.float32)
        found = Detections(boxes, scores, np.zeros(len(boxes), np.int64), ("person",), (1080, 1920))
        begun = time.process_time()
        most = max(most, len(tracker.update(found, i / 25)))
        seconds.append(time.process_time() - begun)
    print(f"{objects} objects: {1000 * statistics.median(seconds):.2f} ms a frame, 95 % below "
          f"{1000 * float(np.percentile(seconds, 95)):.2f} ms (processor time; at most {most} tracks)")  # fmt: skip
    camera = Tracker(TrackerSettings(camera_motion=True))
    images = rng.integers(0, 256, (2, 1080, 1920, 3), np.uint8)
    seconds = []
    for i in range(20):
        begun = time.process_time()
        camera.update(Detections.empty((), (1080, 1920)), i / 25, images[i % 2])
        seconds.append(time.process_time() - begun)
    print(f"camera motion of 1080p: {1000 * statistics.median(seconds):.1f} ms a frame")


def end_to_end(frames: int = 30, rounds: int = 3) -> None:
    """Frames a second of the network alone, and of ``phidet track`` without and with outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "clip.mp4", Path(folder) / "out"
        make_clip(path, frames)
        detector = Detector("person")
        image = next(video_frames(path)).image
        inputs = detector.architecture.network_inputs([detector.architecture.prepare(detector.config, image)])
        ways: dict[str, Callable[[], object]] = {
            "the network alone": lambda: [detector.network(*inputs) for _ in range(frames)],
            "tracked, without outputs": lambda: track_clip(detector, path, 1, None),
            "with --detect-every 3": lambda: track_clip(detector, path, 3, None),
            "with the drawn video": lambda: track_clip(detector, path, 1, out),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                begun = time.perf_counter(), time.process_time()
                way()
                seconds[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    alone = np.median(seconds["the network alone"], axis=0)
    for name, values in seconds.items():
        clock, processor = np.median(values, axis=0)
        print(f"{name:24} {frames / clock:5.1f} frames a second, {1000 * processor / frames:5.1f} ms of processor: "
              f"{clock / alone[0]:.2f} and {processor / alone[1]:.2f} times the network's")  # fmt: skip


def make_clip(path: Path, frames: int) -> None:
    """A wall that moves past, 1080p, 25 frames a second."""
    colours = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    wall = Image.fromarray(colours).resize((2400, 1200), Image.Resampling.BICUBIC)
    writer = VideoWriter(path)
    for i in range(frames):
        writer.write(np.asarray(wall.crop((4 * i, 0, 4 * i + 1920, 1080))), i / 25)
    writer.keep()


def track_clip(detector: Detector, path: Path, every: int, out: Path | None) -> None:
    """As ``phidet track`` does; with a folder it writes the drawn video."""
    sinks = TrackOutputs(["video"] if out else [], out or path.parent, detector.class_names).sinks
    items = read_ahead(read_sources([str(path)]))
    settings = TrackSettings(detect_every=every)
    for item in track_stream(detector, items, PostprocessSettings(score=0.1), settings):
        if isinstance(item, Unusable):
            raise item.error
        for sink in sinks:
            sink.add(*item)
    for sink in sinks:
        sink.keep()


def compare(seeds: int) -> None:
    """A table of both trackers' HOTA, MOTA and IDF1, means over the seeds."""
    data: Any = import_module("tracking_data")
    for name in ("TUD-Campus", "TUD-Stadtmitte"):
        truth = data.tud(name)
        inputs = {"perfect": [data.perfect(truth)]}
        inputs |= {key: [data.noisy(truth, level, seed) for seed in range(seeds)] for key, level in data.LEVELS.items()}
        for level, runs in inputs.items():
            for who, follow in (("phidet", follow_ours), ("trackers", follow_theirs)):
                scores = np.mean([data.score(truth, *follow(frames, data.RATE)) for frames in runs], axis=0)
                hota, mota, idf1, switches = scores.tolist()
                print(f"{name:15} {level:8} {who:9} HOTA {hota:5.1f}  MOTA {mota:5.1f}  IDF1 {idf1:5.1f}"
                      f"  switches {switches:4.1f}")  # fmt: skip


def follow_ours(frames: list[Detections], rate: float) -> tuple[list[Any], list[Any]]:
    """Ids and boxes of each frame by phidet's tracker."""
    tracker = Tracker()
    tracked = [tracker.update(found, i / rate) for i, found in enumerate(frames)]
    return [np.asarray(t.fields["track_id"]) for t in tracked], [t.boxes_xyxy for t in tracked]


def follow_theirs(frames: list[Detections], rate: float) -> tuple[list[Any], list[Any]]:
    """The same by ``trackers``; detections without an id are left out, as in ours."""
    tracker = import_module("trackers").ByteTrackTracker(frame_rate=rate)
    ids, boxes = [], []
    for found in frames:
        tracked = tracker.update(found.to_supervision())
        kept = tracked.tracker_id >= 0
        ids.append(tracked.tracker_id[kept].astype(np.int64))
        boxes.append(tracked.xyxy[kept])
    return ids, boxes


if __name__ == "__main__":
    main()
