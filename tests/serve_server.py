"""A server in a thread, stand-in models for it, and a client without opinions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from phidet.core.errors import CheckpointError
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.segments import make_segments
from phidet.detections.thresholds import Thresholds
from phidet.serve.configuration import Limits, ServerSettings, Source
from phidet.serve.http.listening import listen
from phidet.serve.inputs import Pixels
from phidet.serve.models.batching import BatchingParameters
from phidet.serve.server import Network
from phidet.serve.server import Server as Engine
from phidet.serve.service import Service

CLASSES = ("person", "dog", "cat")
MAX_DETECTIONS = 10
HTTP = Network()
"""No gRPC; the tests' servers are on free ports whatever it says."""


class StandIn:
    """Finds two objects in every image, from its mean brightness; scores tell the version apart.

    Its file holds ``number [seconds [masks]]``: the score in thousandths, how long a batch takes at least, and whether
    objects have masks, or "segments" the image.
    """

    class_names = CLASSES
    image_size_hw = (64, 64)
    max_detections = MAX_DETECTIONS
    runtime_name = "standin"
    thresholds: Thresholds | None = None

    def __init__(self, path: Path) -> None:
        words = path.read_text().split()
        if not words or not words[0].isdigit():
            raise CheckpointError(f"{path} is not a model")
        self.score = int(words[0]) / 1000
        self.seconds = float(words[1]) if len(words) > 1 else 0.0
        self.finds = frozenset(words[2:])
        self.batches: list[int] = []
        self.closed = False
        self.at_a_time = [0]  # batches, at each beginning
        self.go_on = threading.Event()
        self.go_on.set()
        self._running: set[int] = set()

    def detect(self, images: Sequence[Pixels]) -> list[Detections]:
        assert not self.closed, "a closed model was asked"
        self.batches.append(len(images))
        if any(image.shape[:2] == (13, 13) for image in images):
            raise RuntimeError("thirteen")
        self._running.add(threading.get_ident())
        self.at_a_time.append(len(self._running))
        self.go_on.wait()
        time.sleep(self.seconds)
        self._running.discard(threading.get_ident())
        found = [expected(image, self.score) for image in images]
        found = [masked(one) for one in found] if "masks" in self.finds else found
        return [segmented(one) for one in found] if "segments" in self.finds else found

    def close(self) -> None:
        assert not self._running, "it was closed while it worked"
        self.closed = True


@contextlib.contextmanager
def held(model: StandIn) -> Iterator[None]:
    """Batches that begin in this block end after it."""
    model.go_on.clear()
    try:
        yield
    finally:
        model.go_on.set()


def expected(image: Pixels, score: float) -> Detections:
    """What :class:`StandIn` says of an image."""
    height, width = image.shape[:2]
    x = width * float(image.mean()) / 512
    boxes = np.array([[x, height / 4, x + width / 4, height / 2], [0, 0, width, height]], np.float32)
    return Detections(boxes, np.array([score, score / 2], np.float32), np.array([2, 0]), CLASSES, (height, width))


def masked(found: Detections) -> Detections:
    """The left half of each object's box as its mask."""
    assert found.image_size_hw is not None
    halves = found.boxes_xyxy.astype(int)
    full = np.zeros((len(found), *found.image_size_hw), bool)
    for mask, (x1, y1, x2, y2) in zip(full, halves, strict=True):
        mask[y1:y2, x1 : (x1 + x2) // 2] = True
    return found.with_fields({"masks": Masks.from_full(full)})


def segmented(found: Detections) -> Detections:
    """Class 1 in the left half of the image, class 2 in the lower right quarter."""
    assert found.image_size_hw is not None
    height, width = found.image_size_hw
    ids = np.full((height, width), -1)
    ids[:, : width // 2], ids[height // 2 :, width // 2 :] = 0, 1
    classes = np.array([1, 2])
    whole = make_segments(ids, classes, np.ones(2), np.zeros(2, np.bool_), CLASSES)
    return replace(found, segments=whole)


def write_version(base: Path, version: int | str, content: str) -> Path:
    """A version folder that appears at once, as published ones do."""
    base.mkdir(parents=True, exist_ok=True)
    part = base / f".part-{version}"
    part.mkdir()
    (part / "model.onnx").write_text(content)
    part.rename(base / str(version))
    return base / str(version)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        message = self.json["error"]
        assert isinstance(message, str)
        return message


class Server:
    """A running server."""

    loop: asyncio.AbstractEventLoop
    engine: Engine
    grpc_port: int = 0

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, lower, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def is_ready(self) -> bool:
        """Whether all models are loaded; not, too, where nobody listens or a short limit of time closed it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/v2/health/ready").status == 200
        return False

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, **headers)

    def raw(self, data: bytes, seconds: float = 10) -> bytes:
        """Sends bytes as they are and returns everything until the server closes or is silent for ``seconds``."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            received = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    received += part
            return received

    def opened(self, data: bytes) -> socket.socket:
        """A connection with its first bytes, a few. The server sees neither before both are there, so that no limit of
        time begins between them, however slow this thread is.
        """
        begun, end = threading.Event(), threading.Event()

        def stand_still() -> None:
            begun.set()
            end.wait()

        self.loop.call_soon_threadsafe(stand_still)
        begun.wait()
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=600)
            connection.sendall(data)
        finally:
            end.set()
        return connection


def received(connection: socket.socket, wanted: bytes) -> bytes:
    """What comes, until ``wanted`` is in it; fails where the server closes before."""
    reply = b""
    while wanted not in reply:
        part = connection.recv(65536)
        assert part, ("the server closed it", reply)
        reply += part
    return reply


def until_closed(connection: socket.socket) -> bytes:
    """What comes, until the server closes; fails where it does not."""
    reply = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            reply += part
    return reply


@contextlib.contextmanager
def serving(
    settings: ServerSettings, load: Callable[[Path], Any] = StandIn, ready: bool = True, network: Network = HTTP
) -> Iterator[Server]:
    """Runs a server until the block is left; waits for all models first, if ``ready``. HTTP gets a free port."""
    service = Service(settings, load)
    listener = listen("127.0.0.1", 0)
    server = Engine(service, network)
    running = Server(service, listener.getsockname()[1])
    running.engine = server

    async def serve() -> None:
        running.loop = asyncio.get_running_loop()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        if server.grpc is not None:
            running.grpc_port = server.grpc.port
        if ready:
            until(lambda: service.ready)
        yield running
    finally:
        server.should_exit = True
        thread.join(600)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def settings_for(base: Path, **changes: Any) -> ServerSettings:
    """One model called ``m``, polled often; ``limits`` and ``batching`` as dictionaries."""
    limits = Limits(**changes.pop("limits", {}))
    batching = BatchingParameters(**changes.pop("batching", {}))
    return ServerSettings(
        sources=changes.pop("sources", None) or (Source("m", base),),
        limits=limits, batching=batching, **{"poll_seconds": 0.05, **changes},
    )  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Waits for ``condition``, and fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def picture(height: int = 20, width: int = 30, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Pixels, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


PREDICT = "/v1/models/m:predict"
PICTURE = b64(encoded(picture()))
BODY = {"instances": [PICTURE]}


@contextlib.contextmanager
def one_model(folder: Path, content: str = "900", network: Network = HTTP, **changes: Any) -> Iterator[Server]:
    write_version(folder / "m", 1, content)
    with serving(settings_for(folder / "m", **changes), network=network) as server:
        yield server


def model_of(server: Server) -> StandIn:
    model = server.service.repository.models["m"].available[1].model
    assert isinstance(model, StandIn)
    return model


def sent(server: Server) -> socket.socket:
    """A connection over which one predict request has gone out; leaving its block is leaving before the answer."""
    body = json.dumps(BODY).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return connection
