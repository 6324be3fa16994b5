"""A camera for ten minutes: cut three times, frozen once, its size changed once, and one that lies at the end.

    python benchmarks/stream.py                 RTSP (H.264), ten minutes beside an idle machine
    python benchmarks/stream.py --http          HTTP (MJPEG)
    python benchmarks/stream.py --busy 4        beside four processes that compute
    python benchmarks/stream.py --light         small frames, one reader, which sleeps instead of detecting

Needs Linux, and for RTSP GStreamer's server and its bindings for the system's Python (``rtsp_camera.py`` says how). Two
readers follow it all the time: this process with the bundled detector and a tracker, which reads the number of each
frame from its pixels; and ``phidet track`` as a user starts it. What is printed:

- age: how many frames had been decoded after the one that the reader takes, when it takes it; how many the camera had
  sent when the reader is given it, as RGB: of H.264 one more, since FFmpeg knows the end of a frame by the beginning of
  the next; the same without the time that the two threads were ready to run and had no processor; and how long ago it
  was sent.
- memory: resident, of both processes, in the quarters of the time.
- connections after the first one; times by the source beside those of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet import Detector, PostprocessSettings
from phidet.images.live import LiveSource
from phidet.images.sources import SourceImage, Unusable
from phidet.images.video import Frame
from phidet.inference.track import TrackSettings, track_stream
from rtsp_camera import BITS, BLOCK, PASSWORD

SCRIPT = Path(__file__).with_name("rtsp_camera.py")
HTTP_SCRIPT = SCRIPT.with_name("http_camera.py")
FAULTS = (
    (0.15, "cut"),
    (0.30, "freeze 25"),
    (0.45, "cut"),
    (0.60, "size 320 240"),
    (0.75, "cut"),
)
"""When, in shares of the whole time, and what."""
LIES = 0.85, "rate 10"


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--http", action="store_true", help="MJPEG on HTTP instead of H.264 on RTSP")
    parser.add_argument("--light", action="store_true", help="where others use the processor: see above")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes that compute all the time")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        for _ in range(args.busy):
            stack.enter_context(running([sys.executable, "-c", "while True: pass"]))
        script = [sys.executable, str(HTTP_SCRIPT)] if args.http else ["/usr/bin/python3", str(SCRIPT)]
        camera = stack.enter_context(running(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        address = camera.stdout.readline().strip()
        source = Noted(address)
        sent: dict[int, float] = {}
        threading.Thread(target=note_sent, args=(camera.stdout, sent), daemon=True).start()
        orders = threading.Thread(target=order, args=(camera.stdin, args.seconds, source), daemon=True)
        if args.light:
            print("size 640 360", file=camera.stdin, flush=True)
            memory = Memory({"reader": os.getpid()}, args.seconds)
            orders.start()
            memory.start()
            report(follow(source, asleep), sent)
            memory.report()
            return
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ["--save", "json,csv,counts,heat", "--line", "middle=0,0.5,1,0.5", "--out"]
        command = [str(Path(sys.executable).with_name("phidet")), "track", address, *options, str(out / "o")]
        log = stack.enter_context((out / "log").open("w+"))
        user = stack.enter_context(running(command, stdout=log, stderr=log))
        memory = Memory({"reader": os.getpid(), "phidet track": user.pid}, args.seconds)
        orders.start()
        memory.start()
        report(follow(source, detected), sent)
        user.terminate()  # SIGINT is ignored by what a shell starts in the background
        user.wait(60)
        log.seek(0)
        about_user(log.read(), out / "o")
        memory.report()


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[Any]:
    """A process that is killed at the end of the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def order(camera: Any, seconds: float, source: Noted) -> None:
    """Gives the faults at their times, and ends the reader."""
    begun = time.monotonic()
    for share, what in (*FAULTS, LIES):
        time.sleep(max(0.0, begun + share * seconds - time.monotonic()))
        print(what, file=camera, flush=True)
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    source.close()


def note_sent(lines: Any, sent: dict[int, float]) -> None:
    """Reads what the camera prints: when each frame left it."""
    for line in lines:
        _, number, seconds = line.split()
        sent[int(number)] = float(seconds)


class Noted(LiveSource):
    """Notes of each frame which of the decoded ones it is, from 1, and how long its threads had no processor.

    Attributes:
        newer: frames that had been decoded after the one that was taken last, when it was taken.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.newer = 0
        self._reader = 0
        self._noted: dict[float, tuple[int, float]] = {}
        self._before_s = 0.0

    def _arrivals(self) -> Iterator[Any]:
        self._reader = threading.get_native_id()
        for arrival in super()._arrivals():
            self._noted[arrival.time_s] = self.state.received + 1, ready_s(self._reader)
            yield arrival

    def _newest(self) -> Iterator[Any]:
        for arrival in super()._newest():
            order, waited_s = self._noted[arrival.time_s]
            self.newer = max(0, self.state.received - order)
            self._before_s = waited_s + ready_s(threading.get_native_id())
            yield arrival

    def starved_s(self) -> float:
        """How long the reading thread since it decoded the frame, and the caller since taking it, had no processor."""
        try:
            return ready_s(self._reader) + ready_s(threading.get_native_id()) - self._before_s
        except FileNotFoundError:
            return 0.0  # the reading thread has ended


def ready_s(thread: int) -> float:
    """How long a thread of this process has been ready to run, and did not, in seconds."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9


class Memory(threading.Thread):
    """Resident memory of some processes, once a second."""

    def __init__(self, processes: dict[str, int], seconds: float) -> None:
        super().__init__(daemon=True)
        self.processes, self.seconds = processes, seconds
        self.megabytes: dict[str, list[float]] = {name: [] for name in processes}

    def run(self) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            for name, number in self.processes.items():
                pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
                self.megabytes[name].append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            time.sleep(1)

    def report(self) -> None:
        """Waits for its end, and prints how it went."""
        self.join()
        for name, values in self.megabytes.items():
            quarters = np.array_split(values, 4)
            print(f"memory of {name}: medians of quarters {[round(float(np.median(q))) for q in quarters]} MB")


def detected(frames: Iterator[SourceImage | Unusable]) -> None:
    """Detects and tracks on each frame."""
    with Detector("person") as detector:
        for _ in track_stream(detector, frames, PostprocessSettings(score=0.1), TrackSettings()):
            pass


def asleep(frames: Iterator[SourceImage | Unusable]) -> None:
    """In the time of a network, leaves the processor to others."""
    for _ in frames:
        time.sleep(0.08)


def follow(
    source: Noted, look: Callable[[Iterator[SourceImage | Unusable]], None]
) -> dict[str, npt.NDArray[np.float64]]:
    """Has ``look`` take each frame that the source gives; what was noted of it."""
    notes: list[tuple[float, ...]] = []

    def noted() -> Iterator[SourceImage | Unusable]:
        for frame in source.frames():
            now, starved_s = time.monotonic(), source.starved_s()
            notes.append((now, number_of(frame), frame.time_s, frame.image.shape[0], source.newer, starved_s))
            yield SourceImage(source.shown, PurePosixPath("camera.mp4"), frame.image, frame.number, frame.time_s)

    look(noted())
    print(f"{source.state.received} frames came, {source.state.taken} were looked at, "
          f"{source.state.reconnects} connections after the first one")  # fmt: skip
    columns = np.array(notes).T
    return dict(zip(("now", "number", "time", "height", "decoded", "starved"), columns, strict=True))


def number_of(frame: Frame) -> int:
    """Its number: the inverse of ``rtsp_camera.marked``."""
    blocks = frame.image[1 : BLOCK - 1, : BITS * BLOCK, 1].reshape(BLOCK - 2, BITS, BLOCK).mean(axis=(0, 2)) > 128
    return sum(1 << bit for bit, is_white in enumerate(blocks.tolist()) if is_white)


def report(notes: dict[str, npt.NDArray[np.float64]], sent: dict[int, float]) -> None:
    """Prints ages and times."""
    numbers, at = np.array(sorted(sent.items())).T
    age = 1000 * (notes["now"] - np.array([sent[int(n)] for n in notes["number"]]))
    position = np.searchsorted(numbers, notes["number"], side="right")
    newer, without_waits = (
        np.searchsorted(at, end) - position for end in (notes["now"], notes["now"] - notes["starved"])
    )
    print(f"age of a frame when it is given: median {np.median(age):.0f} ms, 99 % below "
          f"{np.percentile(age, 99):.0f} ms, at most {age.max():.0f} ms")  # fmt: skip
    for what, counts in (
        ("been decoded when it was taken", notes["decoded"]),
        ("left the camera when it was given", newer),
        ("left the camera, without waits for a processor", np.maximum(without_waits, 0)),
    ):
        shares = ", ".join(f"{int(n)}: {np.mean(counts == n):.1%}" for n in np.unique(counts))
        print(f"newer frames that had {what}: {shares}")
    print(f"heights seen: {np.unique(notes['height']).astype(int).tolist()}; numbers never fall: "
          f"{bool((np.diff(notes['number']) > 0).all())}; longest gap {np.diff(notes['now']).max():.1f} s")  # fmt: skip
    apart = (notes["time"] - notes["time"][0]) - (notes["now"] - notes["now"][0])
    print(f"times of frames against the clock: {apart.min():+.2f} … {apart.max():+.2f} s; never fall: "
          f"{bool((np.diff(notes['time']) >= 0).all())}")  # fmt: skip


def about_user(log: str, out: Path) -> None:
    """Prints what ``phidet track`` wrote."""
    lines = [line for line in log.splitlines() if "frames a second" not in line and "no connection" not in line]
    print("phidet track said:", *lines[:12], sep="\n  ")
    frames = [json.loads(line) for line in (out / "tracks.jsonl").read_text().splitlines()]
    times = np.array([frame["time_s"] for frame in frames])
    print(f"it wrote {len(frames)} frames, times {times[0]:.1f} … {times[-1]:.1f} s, never falling: "
          f"{bool((np.diff(times) >= 0).all())}")  # fmt: skip
    written = log + "".join(path.read_text(errors="replace") for path in out.rglob("*") if path.is_file())
    print("the password is nowhere:", PASSWORD not in written)


if __name__ == "__main__":
    main()
