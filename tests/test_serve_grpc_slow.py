"""Minutes of gRPC: many clients while versions change, and attacks on a server whose memory is watched."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from phidet.serve.server import MEMORY_STEP_S
from ports import reserved_port
from serve_server import Server, one_model, until, write_version

grpc = pytest.importorskip("grpc", reason="no grpcio here: pip install 'phidet[grpc]'")
from serve_grpc import IMAGE, INFER, ON, PREDICT, STREAM, Client, client, infer_request, predict_request  # noqa: E402
from test_serve_grpc_limits import noise  # noqa: E402

pytestmark = pytest.mark.slow
CLIENTS, SECONDS, ROUNDS = 64, 60.0, 6


def ask(asked: Client, kind: int, end: float) -> Counter[str]:
    """One client: what it was told, until ``end``."""
    told: Counter[str] = Counter()

    # Four at a time: what a stream sends beyond that would wait in the buffers of the connection.
    ahead = threading.Semaphore(4)

    def until_the_end() -> Iterator[object]:
        while time.monotonic() < end:
            ahead.acquire()
            yield infer_request(IMAGE)

    if kind == 2:
        for answer in asked.stream(until_the_end()):
            ahead.release()
            told[answer.error_message or f"stream, version {answer.infer_response.model_version}"] += 1
        return told
    while time.monotonic() < end:
        try:
            found = asked.predict(predict_request(IMAGE)) if kind == 0 else asked.infer(infer_request(IMAGE))
            told[f"score {float(found['detection_scores'][0, 0]):.3f}"] += 1
        except grpc.RpcError as error:
            told[f"{error.code().name}: {error.details()}"] += 1
    return told


def test_64_clients_for_a_minute_while_versions_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_model(tmp_path, "100", network=ON, poll_seconds=0.2) as server, contextlib.ExitStack() as channels:
        asked = [channels.enter_context(client(server)) for _ in range(CLIENTS)]
        end = time.monotonic() + SECONDS
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(ask, one, i % 3, end) for i, one in enumerate(asked)]
            version = 1
            while time.monotonic() < end - 1:
                time.sleep(1)
                version += 1
                write_version(tmp_path / "m", version, str(100 + version))
            told = sum((one.result() for one in running), Counter())
        failed = {text: count for text, count in told.items() if not text.startswith(("score 0.", "stream, version"))}
        with capsys.disabled():
            print(f"\n{sum(told.values())} answers, {len(told)} different ones of {version} versions, failed: {failed}")
        assert not failed
        assert len(told) > version, "answers of nearly every version came, over both ways"
        assert server.service.body_bytes_in_flight == 0


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def ended(calls: list[grpc.Future], cancel: bool) -> int:
    """Waits for the ends of ``calls``, whatever they are; how many there were."""
    for call in calls if cancel else []:
        call.cancel()
    for call in calls:
        with contextlib.suppress(grpc.FutureCancelledError, grpc.RpcError):
            call.result()
    return len(calls)


def attack(port: int, seed: int) -> Counter[str]:
    """One round of everything that is not nice, over a channel of its own."""
    server, told = Server(None, 0), Counter[str]()  # type: ignore[arg-type]
    server.grpc_port = port
    random_ = random.Random(seed)
    with client(server) as asked:
        for _ in range(300):
            path, body = noise(random_)
            try:
                asked.raw(path, body)
                told["noise OK"] += 1
            except grpc.RpcError as error:
                told[f"noise {error.code().name}"] += 1
        told["cancelled"] += ended([asked.future(PREDICT, predict_request(IMAGE)) for _ in range(50)], cancel=True)
        for size, options in ((1 << 30, {}), (1 << 26, {"compression": grpc.Compression.Gzip})):
            try:
                asked.raw(PREDICT, bytes(size), **options)
            except grpc.RpcError as error:
                told[f"too large {error.code().name}"] += 1
        # Streams whose answers nobody reads, of which the client then goes.
        gone = threading.Event()

        def many() -> Iterator[bytes]:
            for _ in range(200):
                yield infer_request(IMAGE).SerializeToString()
            gone.wait(600)

        unread = [asked.channel.stream_stream(STREAM)(many(), timeout=600) for _ in range(4)]
        told["unread streams"] += len(unread)
        # Large images, so that memory would show what is kept.
        large = infer_request()
        large.inputs[0].shape[:] = [1, 1500, 1500, 3]
        large.inputs[0].name, large.inputs[0].datatype = "input_tensor", "UINT8"
        large.raw_input_contents.append(np.zeros((1500, 1500, 3), np.uint8).tobytes())
        told["too late"] += ended([asked.future(INFER, large, seconds=0.05) for _ in range(20)], cancel=False)
        gone.set()
        for call in unread:
            call.cancel()
    return told


@contextlib.contextmanager
def stand_in(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, and its port for gRPC."""
    write_version(folder, 1, "900")
    script = str(Path(__file__).with_name("serve_stand_in.py"))
    with reserved_port() as rest, reserved_port() as port:
        process = subprocess.Popen([sys.executable, script, str(folder), str(rest), str(port)])
        try:
            until(lambda: process.poll() is not None or Server(None, rest).is_ready())  # type: ignore[arg-type]
            assert process.poll() is None
            yield process, port
        finally:
            process.kill()
            process.wait()


def test_memory_is_flat_under_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: Counter[str] = Counter()
    with stand_in(tmp_path / "m") as (process, port):
        memory = [resident_mib(process)]
        for seed in range(ROUNDS):
            told += attack(port, seed)
            time.sleep(2 * MEMORY_STEP_S)  # what is free goes back to the system from time to time
            memory.append(resident_mib(process))
        with capsys.disabled():
            print(f"\n{dict(told)}\nMiB before and after each round: {[round(m) for m in memory]}")
        assert told["too large RESOURCE_EXHAUSTED"] == 2 * ROUNDS
        assert {text for text in told if text.startswith("noise")} == {
            "noise OK", "noise INVALID_ARGUMENT", "noise NOT_FOUND",
        }  # fmt: skip
        # Gigabytes came; gRPC has buffers, and heaps have gaps.
        assert max(memory) < memory[0] + 128
        server = Server(None, 0)  # type: ignore[arg-type]
        server.grpc_port = port
        with client(server) as asked:
            assert asked.predict(predict_request(IMAGE))["num_detections"] == [2]
