"""What viewers of the live page cost a server: one and twenty in turns, while it watches a camera on RTSP.

    python benchmarks/watch_viewers.py          needs GStreamer's RTSP server (``rtsp_camera.py``) and Linux

Viewers ask for frame after frame, as the page does. What counts is the server's processor time for each frame that it
looked at. Frames a second also fall because camera and viewers are on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream import SCRIPT, running

COMMAND = str(Path(sys.executable).with_name("phidet"))


def main() -> None:
    """Prints medians over the turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--hold", type=float, default=0, help="goes on for so many seconds, to look at the page")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        pipe = subprocess.PIPE
        camera = stack.enter_context(running(["/usr/bin/python3", str(SCRIPT)], stdin=pipe, stdout=pipe, text=True))
        address = camera.stdout.readline().strip()
        stack.enter_context(running(["cat"], stdin=camera.stdout, stdout=subprocess.DEVNULL))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        subprocess.run([COMMAND, "publish", "person", f"{folder}/person"], check=True, capture_output=True)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        options = ["--model_name", "person", "--model_base_path", f"{folder}/person", "--rest_api_port", str(port),
                   "--watch", f"yard={address}", "--watch_place", "yard:gate=0.1,0.6,0.9,0.6"]  # fmt: skip
        server = stack.enter_context(running([COMMAND, "serve", *options, "--access_log=false"]))
        print(f"http://127.0.0.1:{port}/watch", flush=True)
        results: dict[int, list[tuple[float, ...]]] = {1: [], 20: []}
        asyncio.run(watch(port, 1, time.monotonic() + args.seconds))  # until everything is loaded
        for _ in range(args.turns):
            for viewers, values in results.items():
                before, begun = processor_s(server.pid), time.monotonic()
                frames = asyncio.run(watch(port, viewers, begun + args.seconds))
                passed = time.monotonic() - begun
                spent = 1000 * (processor_s(server.pid) - before) / max(1, frames)
                values.append((frames / passed, *spent.tolist()))
        for viewers, values in results.items():
            rate, answering, others = (statistics.median(column) for column in zip(*values, strict=True))
            print(f"{viewers:2} viewers: {rate:.1f} frames a second, {answering + others:.1f} ms of processor time for "
                  f"each, {answering:.1f} of them to answer requests")  # fmt: skip
        time.sleep(args.hold)


def processor_s(process: int) -> np.ndarray:
    """Processor time so far of a process's first thread, which answers requests, and of all others."""
    seconds = {path.parent.name: int(path.read_text().split()[0]) / 1e9 for path in
               Path(f"/proc/{process}/task").glob("*/schedstat")}  # fmt: skip
    first = seconds.pop(str(process))
    return np.array([first, sum(seconds.values())])


async def watch(port: int, viewers: int, end: float) -> int:
    """The frames that were shown until then to the viewer who got the most: all that the server looked at."""
    return max(await asyncio.gather(*(view(port, end) for _ in range(viewers))))


async def view(port: int, end: float) -> int:
    """Asks for the next frame again and again on one connection, as browsers do; how many came."""
    number = frames = 0
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            while time.monotonic() < end:
                answer = await ask(reader, writer, number)
                if "image" in answer:
                    frames += number > 0  # the first one may have waited
                    number = answer["sequence"]
            writer.close()
        except (OSError, asyncio.IncompleteReadError):  # not listening yet
            await asyncio.sleep(0.2)
    return frames


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: int) -> Any:
    """The server's answer to one request."""
    writer.write(f"GET /watch/yard/latest?after={after} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    return json.loads(await reader.readexactly(int(head.partition("content-length:")[2].split()[0])))


if __name__ == "__main__":
    main()
