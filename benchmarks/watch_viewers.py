"""What viewers of the live page cost: one and twenty in turns, of a server that watches a camera on RTSP.

    python benchmarks/watch_viewers.py          needs GStreamer's RTSP server (``rtsp_camera.py``) and Linux

Viewers ask for frame after frame, as the page does. Frames that the server looked at in a second, and its processor
time for each, say whether twenty of them slow detection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
        results: dict[int, list[tuple[float, float]]] = {1: [], 20: []}
        asyncio.run(watch(port, 1, time.monotonic() + args.seconds))  # until everything is loaded
        for _ in range(args.turns):
            for viewers, values in results.items():
                before, begun = processor_s(server.pid), time.monotonic()
                frames = asyncio.run(watch(port, viewers, begun + args.seconds))
                passed = time.monotonic() - begun
                values.append((frames / passed, 1000 * (processor_s(server.pid) - before) / max(1, frames)))
        for viewers, values in results.items():
            rate, cost = (statistics.median(column) for column in zip(*values, strict=True))
            print(
                f"{viewers:2} viewers: {rate:.1f} frames looked at a second, {cost:.0f} ms of processor time for each"
            )
        time.sleep(args.hold)


def processor_s(process: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def watch(port: int, viewers: int, end: float) -> int:
    """The frames that the first of the viewers was shown until then."""
    return (await asyncio.gather(*(view(port, end) for _ in range(viewers))))[0]


async def view(port: int, end: float) -> int:
    """Asks for the next frame again and again; how many came."""
    number = frames = 0
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /watch/yard/latest?after={number} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            answer = json.loads(body) if b" 200 " in head.partition(b"\r\n")[0] else {}
        except (OSError, ValueError):
            answer = {}
        if answer.get("sequence", 0) > number and "image" in answer:
            frames += number > 0  # the first one may have waited
            number = answer["sequence"]
        elif not answer:
            await asyncio.sleep(0.2)
    return frames


if __name__ == "__main__":
    main()
