"""From files to boxes: a phone's photographs, a folder of small images, a video; before and after, and beside OpenCV.

    python benchmarks/files.py --data ../shared/data/coco-person                   # this tree, and OpenCV
    python benchmarks/files.py --data … --before ../phidet-before/src              # also another tree's phidet

Each side is a process of its own that says on request how long a piece of work took; they are asked in turns, so that
what else the machine does falls on all of them alike, and medians count: of the wall's clock, and of the processor's
over all threads. OpenCV's side reads with ``cv2.imread`` (a video with ``cv2.VideoCapture``), scales and pads with
``cv2.resize`` and ``cv2.copyMakeBorder``, and runs the same ONNX file in ONNX Runtime; phidet's post-processing
is added on both sides. ``--precision bf16`` adds phidet in bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = (4032, 3024)
_WORKER = """
import json, sys, time
import phidet, numpy as np
from phidet.inference.detector import Detector
from phidet.inference.stream import detect_stream
from phidet.images.sources import read_sources
from phidet.detections.settings import PostprocessSettings
from phidet.core.machine import usable_physical_cores
side, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
cores, settings = threads or usable_physical_cores(), PostprocessSettings(score=0.3)
new = hasattr(Detector, "needed_hw")
extra = {"precision": "bf16"} if side == "bf16" else {"runtime": "onnxruntime"}

def detect(paths):
    needed = {"needed": several.needed_hw} if new else {}
    items = read_sources(paths, **needed)
    return sum(len(answer[1]) for answer in detect_stream(several, items, settings, 1, None, *([cores] if new else [])))

def phone(paths):
    return sum(len(alone(path, settings)) for path in paths)

def frames_of(video):
    while True:
        there, frame = video.read()
        if not there:
            return
        yield frame

def opencv(paths):
    import cv2
    for path in paths:
        if path.endswith(".mp4"):
            frames = frames_of(cv2.VideoCapture(path))
        else:
            frames = [cv2.imread(path)]
        for frame in frames:
            height, width = frame.shape[:2]
            size = alone.config.image_size_hw
            scale = min(size[0] / height, size[1] / width)
            small = cv2.resize(frame, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_LINEAR)
            mean, std = np.float32(alone.config.preprocess.mean_rgb), np.float32(alone.config.preprocess.std_rgb)
            values = (small[..., ::-1].astype(np.float32) - mean) / std
            padded = cv2.copyMakeBorder(
                values, 0, size[0] - values.shape[0], 0, size[1] - values.shape[1], cv2.BORDER_CONSTANT
            )
            out = alone.network(np.ascontiguousarray(padded.transpose(2, 0, 1))[None])
            from phidet.architectures.prepared import Placement
            alone._decode({k: v[0] for k, v in out.items()}, Placement(scale, (height, width)), settings)

alone = Detector(model, threads=cores, **extra)
several = Detector(model, threads=1, **extra, **({"at_once": cores} if side == "bf16" else {})) if new else alone
for line in sys.stdin:
    kind, paths = json.loads(line)
    work = opencv if side == "opencv" else phone if kind == "phone" else detect
    start, cpu = time.perf_counter(), time.process_time()
    work(paths)
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)
"""


class Side:
    """One process that is asked for pieces of work."""

    def __init__(self, kind: str, source: Path, model: str, threads: int) -> None:
        code = f"import sys; sys.path.insert(0, {str(source)!r})\n{_WORKER}"
        command = [sys.executable, "-c", code, kind, model, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take(self, kind: str, paths: list[str]) -> tuple[float, float]:
        """Seconds of the wall and of the processor."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, paths]) + "\n")
        self._process.stdin.flush()
        wall, processor = json.loads(self._process.stdout.readline())
        return wall, processor

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def phone_photos(images: list[Path], folder: Path) -> list[str]:
    """12-megapixel JPEGs: enlarged, with the noise of a sensor, as a phone's camera compresses them."""
    rng, made = np.random.default_rng(0), []
    for path in images:
        with Image.open(path) as image:
            large = np.asarray(image.convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC), np.int16)
        noisy = (large + rng.normal(0, 4, large.shape).astype(np.int16)).clip(0, 255).astype(np.uint8)
        target = folder / f"phone-{path.stem}.jpg"
        Image.fromarray(noisy).save(target, quality=88)
        made.append(str(target))
    return made


def small_images(images: list[Path], folder: Path) -> list[str]:
    """JPEGs of 640 × 480."""
    made = []
    for path in images:
        target = folder / f"small-{path.stem}.jpg"
        with Image.open(path) as image:
            image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC).save(target, quality=90)
        made.append(str(target))
    return made


def video_of(image: str, folder: Path, frames: int) -> list[str]:
    """A 1080p video that pans over a photograph."""
    from fractions import Fraction  # noqa: PLC0415

    from phidet.images.pyav import default_colors  # noqa: PLC0415
    from phidet.images.video_writer import VideoWriter  # noqa: PLC0415

    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    writer = VideoWriter(folder / "pan.mp4", "benchmark", default_colors(1920, 1080))
    for i in range(frames):
        writer.write(
            np.ascontiguousarray(pixels[4 * i : 4 * i + 1080, 6 * i : 6 * i + 1920]), i / 25, float(Fraction(1, 25))
        )
    writer.keep()
    return [str(folder / "pan.mp4")]


def main() -> None:
    """Makes the files, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="coco-person: photographs of people")
    parser.add_argument("--model", default="person", help="as for phidet detect -m (person)")
    parser.add_argument("--before", type=Path, help="the src folder of another tree to compare with")
    parser.add_argument("--precision", choices=("bf16",), help="also phidet in bf16")
    parser.add_argument("--threads", type=int, default=0, help="cores to use (all)")
    parser.add_argument("--only", choices=("phone", "small", "video"), help="one of the three (all)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--small", type=int, default=40, help="images of 640 × 480 in a turn (40)")
    parser.add_argument("--frames", type=int, default=60, help="of the video (60)")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1] / "src"
    sides = {"phidet": Side("phidet", here, args.model, args.threads)}
    if args.before is not None:
        sides["before"] = Side("phidet", args.before.resolve(), args.model, args.threads)
    if args.precision is not None:
        sides["phidet bf16"] = Side("bf16", here, args.model, args.threads)
    sides["OpenCV"] = Side("opencv", here, args.model, args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), sorted((args.data / "val").glob("*.jpg"))
        photos = phone_photos(images[:3], folder)
        work = {
            "phone": ("12-megapixel JPEG to boxes", photos, len(photos)),
            "small": ("640×480 JPEG of a folder", small_images(images[: args.small], folder), args.small),
            "video": ("frame of a 1080p video", video_of(photos[0], folder, args.frames), args.frames),
        }
        for kind, (title, paths, count) in work.items():
            if args.only not in (None, kind):
                continue
            taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for turn in range(args.turns + 1):
                for side, process in sides.items():
                    seconds = process.take(kind, paths)
                    if turn:  # the first turn fills caches and chooses kernels
                        taken[side].append(seconds)
            report(title, taken, count)
    for process in sides.values():
        process.end()


def report(title: str, taken: dict[str, list[tuple[float, float]]], count: int) -> None:
    """A line for each side, with how many times as fast phidet is."""
    print(f"\n{title}, ms")
    ours = [statistics.median(column) for column in zip(*taken["phidet"], strict=True)]
    for side, values in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = (
            ""
            if side == "phidet"
            else f"  phidet: {wall / ours[0]:.2f}× (wall), {processor / ours[1]:.2f}× (processor)"
        )
        print(f"  {side:12} wall {1e3 * wall / count:7.1f}  processor {1e3 * processor / count:7.1f}{ratios}")


if __name__ == "__main__":
    main()
