"""``phidet batch`` under fire: killed with -9 at seeded moments, workers lost, and throughput beside the detector's.

python benchmarks/batch.py                       # 20,000 images in 40 parts, killed five times and started again
python benchmarks/batch.py --cluster local       # the same images on a local Ray cluster; one of two workers is killed
python benchmarks/batch.py --throughput          # images a second, beside the plain detector on the same cores
python benchmarks/batch.py --cost --images 16    # processor time for each image, on a machine that others use
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

import phidet
from phidet.images.decode import read_image
from phidet.inference.batch import BatchWorker
from phidet.inference.batch.parts import Wanted, plan

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from processed import Log, numbered, wait_until_gone, write_parts


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=40)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-m", "--model", default="person")
    parser.add_argument("--cluster", help="a Ray cluster; local starts one")
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="phidet-batch-"))
    try:
        if args.throughput:
            throughput(work, args)
        elif args.cost:
            cost(work, args)
        elif args.cluster:
            lose_a_worker(work, args)
        else:
            kill(work, args)
    finally:
        shutil.rmtree(work)


def command(work: Path, args: argparse.Namespace, log: Log | None = None, *more: str) -> subprocess.Popen[bytes]:
    """Starts ``phidet batch`` in a process group of its own."""
    words = ["batch", str(work / "in"), str(work / "out"), "-m", args.model, "--workers", "2", "--threads", "1", *more]
    environment = os.environ if log is None else log.environment()
    return subprocess.Popen([sys.executable, "-m", "phidet.cli.main", *words], env=environment, start_new_session=True)


def kill(work: Path, args: argparse.Namespace) -> None:
    """Kills the command, or with it its workers, whenever a drawn number of images is begun."""
    rng = random.Random(args.seed)
    write_parts(work / "in", numbered(args.images), args.parts)
    log, each = Log(work / "log"), args.images // args.parts
    in_flight: list[int] = []
    for begun in sorted(rng.sample(range(args.images // 20, args.images), args.kills)):
        running = command(work, args, log)
        while log.count() < begun and running.poll() is None:
            time.sleep(0.02)
        whole_group = rng.random() < 0.5
        (os.killpg if whole_group else os.kill)(running.pid, signal.SIGKILL)
        running.wait()
        wait_until_gone(running.pid)
        there = {path.stem for path in (work / "out").glob("*.parquet")}
        at_once = {n for n in (one.number // each for one in log.read()) if f"in-{n:03d}" not in there}
        in_flight += sorted(at_once - set(in_flight))
        print(f"killed {'all' if whole_group else 'the command'} at {log.count():,} images: {len(there)} parts are "
              f"there, in flight {sorted(at_once)}", flush=True)  # fmt: skip
    assert command(work, args, log).wait() == 0
    report(work, args, log, in_flight)


def lose_a_worker(work: Path, args: argparse.Namespace) -> None:
    """Kills one of the two workers of a cluster when a third of the images is begun."""
    write_parts(work / "in", numbered(args.images), args.parts)
    log, each = Log(work / "log"), args.images // args.parts
    running = command(work, args, log, "--cluster", args.cluster)
    while log.count() < args.images // 3 and running.poll() is None:
        time.sleep(0.02)
    lost = log.read()[-1]
    os.kill(lost.pid, signal.SIGKILL)
    there = {path.stem for path in (work / "out").glob("*.parquet")}
    print(f"killed worker {lost.pid} at {log.count():,} images", flush=True)
    assert running.wait() == 0
    report(work, args, log, [n for n in range(args.parts) if f"in-{n:03d}" not in there and n <= lost.number // each])


def report(work: Path, args: argparse.Namespace, log: Log, in_flight: list[int]) -> None:
    """Compares rows and images with what should be."""
    each = args.images // args.parts
    rows = Counter(int(result.source) for result in phidet.read_results(work / "out"))
    counts = Counter(one.number for one in log.read())
    twice = sorted({number // each for number, count in counts.items() if count > 1})
    print(f"rows {sum(rows.values()):,}, different {len(rows):,} of {args.images:,}; images processed "
          f"{sum(counts.values()):,}, more than once those of parts {twice}, in flight were {sorted(set(in_flight))}; "
          f"processes {len({one.pid for one in log.read()})}")  # fmt: skip
    assert set(rows) == set(range(args.images))
    assert max(rows.values()) == 1
    assert set(twice) <= set(in_flight)
    print("every row once; nothing twice but what was in flight")


def throughput(work: Path, args: argparse.Namespace) -> None:
    """Processor time and wall time for each image: this process's detector, then the command, in turns."""
    write_parts(work / "in", photos(args), args.parts)
    script = (
        "import io, sys, time, pyarrow.parquet as pq, numpy as np\nfrom pathlib import Path\nimport phidet\n"
        "from phidet.images.decode import read_image\n"
        "d = phidet.Detector(sys.argv[2], threads=1)\n"
        "images = [v for p in sorted(Path(sys.argv[1]).glob('*'))[int(sys.argv[3])::2] "
        "for v in pq.read_table(p)['image'].to_pylist()]\n"
        "print('ready', flush=True); input(); s = time.perf_counter()\n"
        "for image in images: d.detect([read_image(image)])\n"
        "print(len(images) / (time.perf_counter() - s), flush=True)\n"
    )
    plain: list[float] = []
    batch: list[float] = []
    for _ in range(3):
        # Two detectors on a core each, loaded before the time begins: what the machine gives without any engine.
        pair = [
            subprocess.Popen([sys.executable, "-c", script, str(work / "in"), args.model, str(i)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(2)
        ]  # fmt: skip
        for one in pair:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in pair:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        plain.append(sum(float(one.communicate()[0]) for one in pair))
        start = time.perf_counter()
        log = Log(work / f"log{len(batch)}")
        running = command(work, args, log)
        while log.count() < 2:  # the models are loaded
            time.sleep(0.005)
        start = time.perf_counter()
        assert running.wait() == 0
        batch.append(args.images / (time.perf_counter() - start))
        shutil.rmtree(work / "out")
    ratio = statistics.median(b / p for b, p in zip(batch, plain, strict=True))
    print(f"detectors {statistics.median(plain):.1f}, phidet batch {statistics.median(batch):.1f} images a second: "
          f"ratio {ratio:.2f} (medians of {len(batch)} pairs, in turns)")  # fmt: skip


def photos(args: argparse.Namespace) -> list[bytes]:
    """JPEGs of 640 × 480 pixels, each with its number behind its end."""
    rng = np.random.default_rng(args.seed)
    images = []
    for i in range(args.images):
        file = io.BytesIO()
        coarse = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(coarse).save(file, "JPEG")
        images.append(file.getvalue() + b"%08d" % i)
    return images


def cost(work: Path, args: argparse.Namespace) -> None:
    """Processor time of a worker that does a part, and of the plain detector on its images; in turns, medians."""
    images = photos(args)
    write_parts(work / "in", images, 1)
    planned = plan(str(work / "in"), Wanted())
    worker, detector = BatchWorker(args.model, threads=1), phidet.Detector(args.model, threads=1)
    ways: dict[str, list[float]] = {"worker": [], "detector": []}
    for turn in range(7):
        for name, times in ways.items():
            start = time.process_time()
            if name == "worker":
                worker.part(planned.parts[0], planned.columns)
            else:
                for image in images:
                    detector.detect([read_image(image)])
            if turn:  # the first one opens the model
                times.append((time.process_time() - start) / len(images))
    ours, theirs = (1e3 * statistics.median(times) for times in ways.values())
    ratio = statistics.median(b / a for a, b in zip(*ways.values(), strict=True))
    print(f"processor time for an image: worker {ours:.1f} ms, detector {theirs:.1f} ms, detector / worker {ratio:.2f}")


if __name__ == "__main__":
    main()
