"""How long ``phidet --help`` and ``phidet detect photo.jpg`` take from a cold process; in turns, medians.

python benchmarks/startup.py        # the bars: help within twice a bare start plus 0.15 s, detect within 0.45 s

Wall and processor time, the latter of all threads: on a machine that has other work, only that means much. Where the
time of ``detect`` goes is shown by one more run, by the processor's clock.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

TURNS = 15
_STAGES = """
import time
begun, marks = 0.0, []
def mark(name):
    global begun
    now = time.process_time()
    marks.append((name, now - begun))
    begun = now
mark("interpreter")
import numpy; mark("NumPy")
import PIL.Image; mark("Pillow")
import onnxruntime; mark("ONNX Runtime")
from phidet.inference.detector import Detector
import phidet.inference.runtimes.onnx_runtime, phidet.detections.sinks, phidet.cli.main; mark("phidet and msgspec")
detector = Detector("person", threads=1); mark("loading the network")
detector("photo.jpg"); mark("decoding and the first run")
print(", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in marks))
"""


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(Path(folder) / "photo.jpg")
        commands = {
            "import argparse": [sys.executable, "-c", "import argparse"],
            "phidet --help": [sys.executable, "-m", "phidet.cli.main", "--help"],
            "phidet detect --help": [sys.executable, "-m", "phidet.cli.main", "detect", "--help"],
            "phidet detect photo.jpg": [sys.executable, "-m", "phidet.cli.main", "detect", "photo.jpg"],
        }
        # As installed: modules compiled once, whatever this shell says of that.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        wall: dict[str, list[float]] = {name: [] for name in commands}
        processor: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(TURNS + 1):
            for name, command in commands.items():
                start, before = time.perf_counter(), _processor_seconds()
                subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
                after = _processor_seconds()
                if turn:  # the first turn compiles modules and reads files from the disk
                    wall[name].append(time.perf_counter() - start)
                    processor[name].append(after - before)
        for name in commands:
            milliseconds = [1e3 * statistics.median(times[name]) for times in (wall, processor)]
            print("{:24}{:6.0f} ms, processor {:4.0f} ms".format(name, *milliseconds))
        bar = 2 * statistics.median(wall["import argparse"]) + 0.15
        helped, detected = (statistics.median(wall[name]) for name in ("phidet --help", "phidet detect photo.jpg"))
        print(f"bar for phidet --help   {bar * 1e3:6.0f} ms: {'met' if helped <= bar else 'missed'}")
        print(f"bar for phidet detect      450 ms: {'met' if detected <= 0.45 else 'missed'}")
        subprocess.run([sys.executable, "-c", _STAGES], check=True, cwd=folder, env=environment)


def _processor_seconds() -> float:
    """Of all processes that have ended; os.times() counts in hundredths of a second."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
