"""What serving costs: one client beside ``Detector`` in process, and 64 clients beside the runtime alone.

    python benchmarks/serve_load.py models/person image.jpg --seconds 60

Overhead: requests and in-process calls take turns, so that a busy machine slows both alike; the medians and their
ratio count. A turn is ten of a kind: after one, each would find its caches full of the other's. The server has all
cores, as the detector in process has.

Load: the clients are one process of asyncio with requests made beforehand, because what they compute the server lacks.
Throughput is compared with batches of the same size in process, decoding included, measured before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import read_image
from phidet.inference.detector import Detector
from phidet.serve.models.folders import version_folders
from phidet.serve.models.model import model_file

SETTINGS = PostprocessSettings(score=0.05)


class Load(NamedTuple):
    """What the clients saw."""

    seconds: float
    cpu: float  # of the clients themselves
    latencies: list[float]
    statuses: dict[int, int]


@contextmanager
def server(base: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "phidet.cli.main", "serve", "--model_name", "m", "--model_base_path", str(base),
        "--rest_api_port", str(port), "--access_log=false", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        while status(port) != 200:
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.1)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def status(port: int) -> int:
    """Of ``/v2/health/ready``, 0 where nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Cost(NamedTuple):
    """Of one action: seconds on the clock, and of processors (ours and another process's together)."""

    wall: float
    cpu: float


def cost_of(action: Callable[[], object], other: int) -> Cost:
    """What ``action`` costs, and with it the process ``other`` that may do a part of it."""
    cpu, begun = time.process_time() + cpu_seconds(other), time.perf_counter()
    action()
    wall = time.perf_counter() - begun
    return Cost(wall, time.process_time() + cpu_seconds(other) - cpu)


def cpu_seconds(process: int) -> float:
    """Processor seconds of all threads of a process so far, in nanosecond steps."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def overhead(base: Path, image: Path, rounds: int, turn: int) -> None:
    """One client, alternating with the detector in process."""
    data = image.read_bytes()
    detector = Detector(model_of(base))
    with server(base) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask() -> object:
            body = json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]})
            connection.request("POST", "/v1/models/m:predict", body)
            return json.loads(connection.getresponse().read())["predictions"]

        def detect() -> object:
            return detector.detect([read_image(data)], SETTINGS)

        served: list[Cost] = []
        alone: list[Cost] = []
        for _ in range(rounds // turn + 1):
            served += [cost_of(ask, process.pid) for _ in range(turn)]
            alone += [cost_of(detect, process.pid) for _ in range(turn)]
    served, alone = served[turn:], alone[turn:]
    print(f"one client, an image of {len(data) / 1000:.0f} kB, {len(alone)} in turns of {turn}: served / in process")
    for name, middle in (("median", statistics.median), ("least", min)):
        for kind in ("wall", "cpu"):
            ours, theirs = (middle([getattr(cost, kind) for cost in costs]) * 1000 for costs in (served, alone))
            print(f"  {name} {kind}: {ours:.2f} / {theirs:.2f} ms, {ours / theirs - 1:+.1%}")


class Bare(NamedTuple):
    """The detector in process: images a second, and processor seconds for each."""

    rate: float
    cpu: float


def bare(base: Path, image: Path, batch: int, seconds: float, threads: int | None) -> Bare:
    """One batch after another in process, decoding included."""
    data = image.read_bytes()
    detector = Detector(model_of(base), threads=threads)
    detector.detect([read_image(data)] * batch, SETTINGS)
    cpu, begun, count = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        detector.detect([read_image(data) for _ in range(batch)], SETTINGS)
        count += batch
    return Bare(count / (time.perf_counter() - begun), (time.process_time() - cpu) / count)


async def client(port: int, request: bytes, end: float, found: Load) -> None:
    """Sends the same request again and again on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        begun = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        found.latencies.append(time.perf_counter() - begun)
        code = int(head[9:12])
        found.statuses[code] = found.statuses.get(code, 0) + 1
        if b"connection: close" in head.lower():
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def clients(port: int, image: Path, count: int, seconds: float) -> Load:
    """``count`` clients at a time for ``seconds``."""
    body = json.dumps({"instances": [{"b64": base64.b64encode(image.read_bytes()).decode()}]}).encode()
    request = f"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    found = Load(seconds, 0.0, [], {})

    async def all_of_them() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(port, request, end, found) for _ in range(count)))

    cpu, begun = time.process_time(), time.perf_counter()
    asyncio.run(all_of_them())
    return found._replace(seconds=time.perf_counter() - begun, cpu=time.process_time() - cpu)


def load(base: Path, image: Path, args: argparse.Namespace) -> None:
    """Many clients, and the same images in process before and after."""
    before = bare(base, image, args.batch, args.bare_seconds, args.threads)
    flags = ["--batching_parameters_file", str(args.batching)] if args.batching else []
    with server(base, *flags) as (process, port):
        memory = [resident_mib(process)]
        with get_context("spawn").Pool(1) as pool:
            pool.apply(clients, (port, image, args.clients, min(5.0, args.seconds)))
            memory.append(resident_mib(process))
            cpu = cpu_seconds(process.pid)
            waiting = pool.apply_async(clients, (port, image, args.clients, args.seconds))
            while not waiting.ready():
                waiting.wait(1)
                memory.append(resident_mib(process))
            found = waiting.get()
            cpu = cpu_seconds(process.pid) - cpu
        batches = batch_sizes(port)
    after = bare(base, image, args.batch, args.bare_seconds, args.threads)
    report(found, memory, batches, args)
    alone = Bare(*(statistics.mean(pair) for pair in zip(before, after, strict=True)))
    rate, each = len(found.latencies) / found.seconds, cpu / len(found.latencies)
    print(f"  in process, batches of {args.batch}: {before.rate:.1f} images a second before, {after.rate:.1f} after")
    print(f"  served / in process: {rate / alone.rate:.2f} of the images a second")
    own = found.cpu / len(found.latencies)
    print(f"  processor ms each: {each * 1e3:.1f} server, {own * 1e3:.1f} clients, {alone.cpu * 1e3:.1f} in process")
    print(f"  in process / served: {alone.cpu / each:.2f} of the processor time")


def batch_sizes(port: int) -> float:
    """Mean size of the batches that the server ran."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/monitoring/prometheus/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("phidet_batch_size_")}
    return values['phidet_batch_size_sum{model="m"}'] / values['phidet_batch_size_count{model="m"}']


def report(found: Load, memory: list[float], batches: float, args: argparse.Namespace) -> None:
    """Prints what the clients saw and what the server held."""
    ordered = sorted(found.latencies)
    rate = len(ordered) / found.seconds
    p50, p95, p99 = (ordered[int(len(ordered) * q)] * 1000 for q in (0.5, 0.95, 0.99))
    print(f"{args.clients} clients, {found.seconds:.0f} s: {len(ordered)} answers, statuses {found.statuses}")
    print(f"  {rate:.1f} images a second in batches of {batches:.1f}; p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms")
    idle, warm, most, last = memory[0], memory[1], max(memory), memory[-1]
    print(f"  memory in MiB: {idle:.0f} idle, {warm:.0f} warm, {last:.0f} at the end, {most:.0f} most")


def model_of(base: Path) -> Path:
    """The model file of the latest version."""
    folders = version_folders(base)
    return model_file(folders[max(folders)], base)


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of version folders")
    parser.add_argument("image", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bare-seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--turn", type=int, default=10, help="requests, or calls in process, one after another")
    parser.add_argument("--batch", type=int, default=8, help="of the comparison in process")
    parser.add_argument("--threads", type=int, help="of the comparison in process; left out, the runtime's choice")
    parser.add_argument("--batching", type=Path, help="a batching parameters file for the server")
    parser.add_argument("--only", choices=("overhead", "load"))
    args = parser.parse_args()
    if args.only != "load":
        overhead(args.base, args.image, args.rounds, args.turn)
    if args.only != "overhead":
        load(args.base, args.image, args)


if __name__ == "__main__":
    main()
