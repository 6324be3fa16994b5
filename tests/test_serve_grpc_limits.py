"""gRPC under pressure and under attack: token, limits, deadlines, cancelled calls, slow readers, noise, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phidet.core.errors import ConfigError
from phidet.serve.messages import message
from phidet.serve.server import Network
from phidet.serve.tasks import begun, whole
from serve_server import Server, encoded, held, model_of, one_model, picture, until

grpc = pytest.importorskip("grpc", reason="no grpcio here: pip install 'phidet[grpc]'")
from phidet.serve.grpc.connections import close_connection  # noqa: E402
from phidet.serve.grpc.server import GrpcServer  # noqa: E402
from serve_grpc import (  # noqa: E402
    IMAGE,
    INFER,
    INFERENCE,
    ON,
    PREDICT,
    SERVING,
    STREAM,
    client,
    code_of,
    infer_request,
    predict_pixels,
    predict_request,
)

RIGHT = (("authorization", "Bearer secret"),)
LIVE = f"/{INFERENCE}.GRPCInferenceService/ServerLive"


def test_the_token(tmp_path: Path) -> None:
    body = predict_request(IMAGE).SerializeToString()
    with one_model(tmp_path, network=ON, token="secret") as server, client(server) as asked:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "Basic secret"),)):
            for path in (PREDICT, INFER, f"/{SERVING}.ModelService/GetModelStatus", f"/{INFERENCE}.x/y"):
                with pytest.raises(grpc.RpcError) as error:
                    asked.raw(path, body, metadata)
                assert code_of(error) == ("UNIMPLEMENTED" if path.endswith("/y") else "UNAUTHENTICATED")
        assert asked.raw(PREDICT, body, RIGHT)
        for path in (LIVE, "/inference.GRPCInferenceService/ServerReady", "/grpc.health.v1.Health/Check"):
            assert asked.raw(path, b""), "open to orchestrators, as over HTTP"


def test_a_message_over_the_limit_is_refused_before_it_is_here(tmp_path: Path) -> None:
    """As it is, and as what few bytes inflate to. One of a gigabyte is sent by the soak test."""
    with one_model(tmp_path, network=ON, limits={"body_bytes": 1 << 20}) as server, client(server) as asked:
        image = encoded(np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8))
        assert 800_000 < len(image) < 1 << 20
        assert asked.predict(predict_request(image))["num_detections"] == [2]
        for options in ({}, {"compression": grpc.Compression.Gzip}):
            with pytest.raises(grpc.RpcError) as error:
                asked.raw(PREDICT, bytes(32 << 20), **options)
            assert code_of(error) == "RESOURCE_EXHAUSTED"
        assert asked.predict(predict_request(IMAGE))["num_detections"] == [2]
        assert server.service.body_bytes_in_flight == 0


def test_all_messages_together_have_a_limit(tmp_path: Path) -> None:
    limits = {"body_bytes": 1 << 20, "bodies_in_flight_bytes": 1_500_000}
    request = predict_pixels(picture(500, 600)[None])  # 900 kB
    with one_model(tmp_path, network=ON, limits=limits) as server, client(server) as asked:
        with held(model_of(server)):
            calls = [asked.future(PREDICT, request) for _ in range(4)]
            until(lambda: sum(call.done() for call in calls) == 3)
            assert {call.code().name for call in calls if call.done()} == {"UNAVAILABLE"}
            assert all("too many large requests" in call.details() for call in calls if call.done())
        assert [call.code().name for call in calls].count("OK") == 1
        until(lambda: server.service.body_bytes_in_flight == 0)
        assert asked.raw(PREDICT, request.SerializeToString())


def test_a_full_queue_is_unavailable_and_says_when_to_come_again(tmp_path: Path) -> None:
    batching = {"max_batch_size": 1, "max_enqueued_batches": 2}
    with one_model(tmp_path, network=ON, batching=batching) as server, client(server) as asked:
        with held(model_of(server)):
            calls = [asked.future(PREDICT, predict_request(IMAGE)) for _ in range(8)]
            until(lambda: sum(call.done() for call in calls) == 5)
            refused = [call for call in calls if call.done()]
            assert {call.code().name for call in refused} == {"UNAVAILABLE"}
            assert {dict(call.trailing_metadata())["grpc-retry-pushback-ms"] for call in refused} == {"1000"}
        assert [call.code().name for call in calls].count("OK") == 3


def test_a_cancelled_call_gives_its_place_in_the_queue_back(tmp_path: Path) -> None:
    batching = {"max_batch_size": 1, "max_enqueued_batches": 2}
    with one_model(tmp_path, network=ON, batching=batching) as server, client(server) as asked:
        batcher = server.service.repository.models["m"].available[1].batcher
        with held(model_of(server)):
            first = asked.future(PREDICT, predict_request(IMAGE))
            until(lambda: len(model_of(server).batches) == 2)  # the first was the trial
            waiting = [asked.future(PREDICT, predict_request(IMAGE)) for _ in range(2)]
            until(lambda: batcher.waiting == 2)
            for call in waiting:
                call.cancel()
            until(lambda: batcher.waiting == 0)
            again = [asked.future(PREDICT, predict_request(IMAGE)) for _ in range(2)]
            until(lambda: batcher.waiting == 2)
        assert [call.code().name for call in (first, *waiting, *again)] == ["OK", "CANCELLED", "CANCELLED", "OK", "OK"]
        assert len(model_of(server).batches) == 4, "nobody computed for those who had gone"
        until(lambda: server.service.body_bytes_in_flight == 0)


def test_the_clients_deadline_and_the_servers(tmp_path: Path) -> None:
    with one_model(tmp_path, network=ON, limits={"request_seconds": 0.5}) as server, client(server) as asked:
        with held(model_of(server)):
            theirs = asked.future(PREDICT, predict_request(IMAGE), seconds=0.1)
            ours = asked.future(PREDICT, predict_request(IMAGE))
            assert (theirs.code().name, ours.code().name) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
            assert ours.details() == "the request was not answered within 0.5 s"
        until(lambda: server.service.repository.models["m"].available[1].users == 0)
        # The call with the shorter deadline may have ended before the server saw it.
        counted = b'api="grpc_v1",model="m",status="DEADLINE_EXCEEDED"}'
        until(lambda: counted in server.service.metrics.text())


def test_a_message_that_does_not_come_is_dropped(tmp_path: Path) -> None:
    with one_model(tmp_path, network=ON, limits={"idle_seconds": 0.3}) as server, client(server) as asked:
        done = threading.Event()

        def nothing() -> Iterator[bytes]:
            done.wait(600)
            yield b""

        call = asked.channel.stream_unary(PREDICT).future(nothing(), timeout=600)
        assert call.code().name == "DEADLINE_EXCEEDED"
        assert call.details() == "the message did not come within 0.3 s"
        done.set()


def test_more_calls_than_allowed_are_turned_away(tmp_path: Path) -> None:
    with one_model(tmp_path, network=ON, limits={"connections": 4}) as server, client(server) as asked:
        with held(model_of(server)):
            calls = [asked.future(PREDICT, predict_request(IMAGE)) for _ in range(6)]
            until(lambda: sum(call.done() for call in calls) == 2)
            assert {call.details() for call in calls if call.done()} == {"too many calls at a time"}
        assert [call.code().name for call in calls].count("OK") == 4


def test_answers_that_nobody_reads_are_counted_and_given_back(tmp_path: Path) -> None:
    """gRPC keeps an answer until its client takes it: so many of them are refused work, until the clients leave."""
    limits = {"body_bytes": 1 << 20, "bodies_in_flight_bytes": 50 << 20, "request_seconds": 600}
    with one_model(tmp_path, network=ON, limits=limits) as server:
        loaded = server.service.repository.models["m"].available[1]
        loaded.model.max_detections = 2_000_000  # type: ignore[misc]  # 48 MB of padding
        with client(server) as slow:
            listening = threading.Event()

            def one() -> Iterator[bytes]:
                yield infer_request(IMAGE).SerializeToString()
                listening.wait(600)

            unread = slow.channel.stream_stream(STREAM)(one(), timeout=600)
            until(lambda: server.service.body_bytes_in_flight > 40_000_000)
            assert loaded.users == 0, "its place in the queue is free"
            with client(server) as other, pytest.raises(grpc.RpcError) as error:
                other.infer(infer_request(IMAGE))
            assert code_of(error) == "UNAVAILABLE"
            listening.set()
            unread.cancel()
        until(lambda: server.service.body_bytes_in_flight == 0)
        loaded.model.max_detections = 10  # type: ignore[misc]
        with client(server) as other:
            assert other.predict(predict_request(IMAGE))["num_detections"] == [2]


def test_a_client_that_takes_no_answers_is_cut_off_and_only_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its place in the queue is free before; then its connection ends, whose other calls its client may repeat."""
    with one_model(tmp_path, network=ON, limits={"request_seconds": 4.0}) as server:
        loaded = server.service.repository.models["m"].available[1]
        listening = threading.Event()

        def requests() -> Iterator[bytes]:
            yield infer_request(IMAGE).SerializeToString()
            listening.wait(600)

        with client(server) as slow, client(server) as other:
            # 48 MB of padding: a client's library takes some by itself, the more the faster the connection is.
            loaded.model.max_detections = 2_000_000  # type: ignore[misc]
            unread = slow.channel.stream_stream(STREAM)(requests(), timeout=60)
            until(lambda: server.service.body_bytes_in_flight > 40_000_000)
            loaded.model.max_detections = 10  # type: ignore[misc]
            idle = other.channel.stream_stream(STREAM)(requests(), timeout=600)
            assert next(idle), "it has its answer, and says nothing more"
            assert unread.code().name == "UNAVAILABLE", "its client is told, though it reads nothing"
            until(lambda: server.service.body_bytes_in_flight == 0)
            ended = b'phidet_requests_total{api="grpc_stream",model="",status="DEADLINE_EXCEEDED"} 1.0'
            until(lambda: ended in server.service.metrics.text().splitlines())
            assert idle.is_active()
            assert other.predict(predict_request(IMAGE))["num_detections"] == [2]
            assert slow.predict(predict_request(IMAGE))["num_detections"] == [2], "over a new connection"
            listening.set()
            assert not list(idle)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_clients_that_go_in_the_middle_of_an_answer_are_no_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with one_model(tmp_path, network=ON) as server:
        server.service.repository.models["m"].available[1].model.max_detections = 2_000_000  # type: ignore[misc]
        for _ in range(3):
            with client(server) as asked:
                call = asked.channel.stream_stream(STREAM)(
                    iter([infer_request(IMAGE).SerializeToString()]), timeout=600
                )
                until(lambda: server.service.body_bytes_in_flight > 40_000_000)
                call.cancel()
            until(lambda: server.service.body_bytes_in_flight == 0)
        gone = b'phidet_requests_total{api="grpc_stream",model="",status="CANCELLED"} 3.0'
        until(lambda: gone in server.service.metrics.text().splitlines())
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("fails", [False, True])
def test_what_grpc_reads_or_writes_ends_though_its_call_has_ended(fails: bool) -> None:
    """gRPC never frees the message of a read or write that is cancelled: six megabytes for every late call."""
    ended, reported = [], []

    async def cancel_one() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        is_begun, may_end = asyncio.Event(), asyncio.Event()

        async def operation() -> None:
            is_begun.set()
            await may_end.wait()
            ended.append(True)
            if fails:
                raise grpc.aio.InternalError("the client has gone")

        call = asyncio.create_task(whole(begun(operation())))
        await is_begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not ended
        may_end.set()
        await asyncio.sleep(0.01)
        gc.collect()  # which is when asyncio would report an error that nobody has seen

    asyncio.run(cancel_one())
    assert ended == [True]
    assert not reported


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_is_found_by_what_grpc_calls_it(family: socket.AddressFamily) -> None:
    host, peer = ("127.0.0.1", "ipv4:127.0.0.1") if family == socket.AF_INET else ("::1", "ipv6:%5B::1%5D")
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    # Sockets of other kinds are open, too: the peer of one to Linux's kernel is two numbers, and it is looked at first.
    strange = [*socket.socketpair()]
    if hasattr(socket, "AF_NETLINK"):
        strange += [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) for _ in range(8)]
    with listener, socket.create_connection(listener.getsockname()[:2]) as one, listener.accept()[0] as accepted:
        with socket.create_connection(listener.getsockname()[:2]) as two, listener.accept()[0] as also:
            assert not close_connection(f"{peer}:1")
            assert close_connection(f"{peer}:{one.getsockname()[1]}")
            assert one.recv(1) == b"", "it was told"
            also.sendall(b"x")
            assert two.recv(1) == b"x", "the other goes on"
        assert accepted.recv(1) == b""
    for other in strange:
        other.close()


def noise(random_: random.Random) -> tuple[str, bytes]:
    """A request with some of its bytes changed, cut off, or none of it."""
    path, request = random_.choice(
        [(PREDICT, predict_request(IMAGE)), (PREDICT, predict_pixels(picture()[None])), (INFER, infer_request(IMAGE))]
    )
    body = bytearray(request.SerializeToString())
    kind = random_.randrange(4)
    if kind == 0:
        for _ in range(random_.randint(1, 8)):
            body[random_.randrange(len(body))] = random_.randrange(256)
    elif kind == 1:
        del body[random_.randrange(len(body)) :]
    elif kind == 2:
        body[:] = random_.randbytes(random_.randrange(2000))
    else:  # where the shapes and names are
        for _ in range(random_.randint(1, 4)):
            body[random_.randrange(40)] = random_.randrange(256)
    return path, bytes(body)


def test_noise_is_answered_with_a_status_of_the_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random_ = random.Random(18)
    with one_model(tmp_path, network=ON, limits={"image_pixels": 1_000_000}) as server, client(server) as asked:
        codes: set[str] = set()
        for _ in range(1000):
            path, body = noise(random_)
            try:
                asked.raw(path, body)
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
        assert codes == {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert server.service.body_bytes_in_flight == 0
        assert server.service.metrics.in_flight._value.get() == 0
        assert asked.predict(predict_request(IMAGE))["num_detections"] == [2]


def test_metrics_and_log_know_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "phidet.access"),
        one_model(tmp_path, network=ON) as server,
        client(server) as asked,
    ):
        asked.predict(predict_request(IMAGE))
        with contextlib.suppress(grpc.RpcError):
            asked.predict(predict_request(IMAGE, name="x"))
        assert len(list(asked.stream([infer_request(IMAGE), infer_request(b"x")]))) == 2

        def counted(api: str, model: str, status: str) -> bool:
            line = f'phidet_requests_total{{api="{api}",model="{model}",status="{status}"}} 1.0'
            return line.encode() in server.service.metrics.text().splitlines()

        until(lambda: counted("grpc_v1", "m", "OK") and counted("grpc_v1", "", "NOT_FOUND"))
        until(lambda: counted("grpc_v2", "m", "OK") and counted("grpc_v2", "m", "INVALID_ARGUMENT"))
        lines = [json.loads(record.message) for record in caplog.records if record.name == "phidet.access"]
        (first,) = [line for line in lines if line["path"] == PREDICT and line["status"] == "OK"]
        assert (first["client"], first["model"], first["version"]) == ("127.0.0.1", "m", 1)


def test_a_server_that_drains_answers_and_is_not_ready(tmp_path: Path) -> None:
    """First readiness goes, then, when load balancers have noticed, the ports; what has begun is finished."""
    network, gone = Network(grpc_port=0, drain_seconds=3600), threading.Event()
    with one_model(tmp_path, network=network) as server, client(server) as asked:
        asked.predict(predict_request(IMAGE))
        server.engine.should_exit = True
        until(lambda: server.get("/v2/health/ready").status == 503)
        assert asked.raw(f"/{INFERENCE}.GRPCInferenceService/ServerReady", b"") == b""
        assert asked.raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x02", "not serving"
        assert server.get("/v2/health/live").status == 200
        assert asked.predict(predict_request(IMAGE))["num_detections"] == [2]
        answers = asked.stream(one_and_then_silence(gone))
        assert next(answers).infer_response.model_name == "m"
        with held(model_of(server)):
            begun = asked.future(PREDICT, predict_request(IMAGE))
            until(lambda: server.service.repository.models["m"].available[1].users == 1)
            server.engine.draining_until = 0.0
            until(server.service.stopping.is_set)
        answer = message(f"{SERVING}.PredictResponse").FromString(begun.result())
        assert answer.model_spec.version.value == 1, "it had begun"
        with pytest.raises(grpc.RpcError, match="the server stops"):
            next(answers)
        gone.set()


def one_and_then_silence(end: threading.Event) -> Iterator[Any]:
    yield infer_request(IMAGE)
    end.wait(600)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def second(first: Server) -> None:
        GrpcServer(first.service, "127.0.0.1", first.grpc_port)

    taken = pytest.raises(ConfigError, match="choose another --port or --host")
    with one_model(tmp_path, network=ON) as server, taken:
        asyncio.run(second(server))
