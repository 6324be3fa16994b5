"""The queue in front of a model: batches, workers, and what is refused."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phidet.detections.detections import Detections
from phidet.serve.inputs import Pixels
from phidet.serve.protocols import tfserving_rest as tfserving
from phidet.serve.refusals import bad_request
from serve_server import (
    BODY,
    PICTURE,
    PREDICT,
    StandIn,
    b64,
    encoded,
    held,
    model_of,
    one_model,
    picture,
    sent,
    serving,
    settings_for,
    until,
    write_version,
)


def test_requests_that_come_together_are_answered_together(tmp_path: Path) -> None:
    with one_model(tmp_path, batching={"max_batch_size": 4}) as server, ThreadPoolExecutor(9) as pool:
        batcher = server.service.repository.models["m"].available[1].batcher
        with held(model_of(server)):
            replies = [pool.submit(server.post, PREDICT, BODY) for _ in range(9)]
            until(lambda: batcher.waiting == 8)
        assert {reply.result().status for reply in replies} == {200}
        batches = model_of(server).batches[1:]  # the first was the trial after loading
        assert batches == [1, 4, 4], "those that came while it worked went together"


def test_a_worker_waits_for_company_only_if_told(tmp_path: Path) -> None:
    with one_model(tmp_path / "lone", batching={"max_batch_size": 3, "batch_timeout_micros": 1_000_000}) as server:
        begun = time.monotonic()
        assert server.post(PREDICT, BODY).status == 200
        assert time.monotonic() - begun >= 1.0
        assert model_of(server).batches[1:] == [1]
    batching = {"max_batch_size": 3, "batch_timeout_micros": 60_000_000}
    with one_model(tmp_path / "group", batching=batching) as server, ThreadPoolExecutor(3) as pool:
        assert [r.status for r in pool.map(lambda _: server.post(PREDICT, BODY), range(3))] == [200] * 3
        assert model_of(server).batches[1:] == [3]


def test_several_workers_share_what_waits(tmp_path: Path) -> None:
    batching = {"max_batch_size": 8, "num_batch_threads": 2}
    with one_model(tmp_path, batching=batching) as server, ThreadPoolExecutor(1) as pool:
        with held(model_of(server)):
            reply = pool.submit(server.post, PREDICT, {"instances": [PICTURE] * 8})
            until(lambda: max(model_of(server).at_a_time) == 2)
        assert reply.result().status == 200
        assert max(model_of(server).at_a_time) == 2
        assert sorted(model_of(server).batches[1:]) == [4, 4]


def test_an_image_on_which_the_model_fails_does_not_take_its_batch_along(tmp_path: Path) -> None:
    batching = {"max_batch_size": 2, "batch_timeout_micros": 60_000_000}
    bad = {"instances": [b64(encoded(picture(13, 13)))]}
    with one_model(tmp_path, batching=batching) as server, ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda body: server.post(PREDICT, body), [BODY, bad]))
        assert [reply.status for reply in replies] == [200, 500]
        assert model_of(server).batches[1] == 2, "they were in one batch"


def test_a_full_queue_says_when_to_come_again_and_recovers(tmp_path: Path) -> None:
    batching = {"max_batch_size": 2, "max_enqueued_batches": 2}
    with one_model(tmp_path, batching=batching) as server, ThreadPoolExecutor(24) as pool:
        with held(model_of(server)):
            asked = [pool.submit(server.post, PREDICT, BODY) for _ in range(24)]
            until(lambda: sum(reply.done() for reply in asked) == 19)
            refused = [reply.result() for reply in asked if reply.done()]
        statuses = sorted(reply.result().status for reply in asked)
        assert statuses == [200] * 5 + [503] * 19, "what fits is answered: one that is worked on, four that wait"
        for reply in refused:
            assert reply.headers["retry-after"] == "1"
            assert "in flight" in reply.error or "is full" in reply.error
        assert server.post(PREDICT, BODY).status == 200
        assert server.get("/v2/health/live").status == 200


class Clock:
    """Stands still, but for those who move it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_who_could_not_be_answered_in_time_is_turned_away_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of one takes 30 s and a request may take 100 s, so two can wait, though the queue holds 50."""
    clock = Clock()
    for module in ("models.batching", "service", "calls"):
        monkeypatch.setattr(f"phidet.serve.{module}.time", clock)

    class HalfAMinute(StandIn):
        def detect(self, images: Sequence[Pixels]) -> list[Detections]:
            found = super().detect(images)
            clock.now += 30
            return found

    batching = {"max_batch_size": 1, "max_enqueued_batches": 50}
    write_version(tmp_path, 1, "900")
    settings = settings_for(tmp_path, batching=batching, limits={"request_seconds": 100.0})
    with serving(settings, HalfAMinute) as server, ThreadPoolExecutor(20) as pool:
        assert server.post(PREDICT, BODY).status == 200  # from now on its pace is known
        with held(model_of(server)):
            asked = [pool.submit(server.post, PREDICT, BODY) for _ in range(20)]
            until(lambda: sum(reply.done() for reply in asked) == 17)  # while the first is still worked on
            refused = [reply.result() for reply in asked if reply.done()]
        for reply in refused:
            assert reply.status == 503
            assert reply.headers["retry-after"] == "20", "it would have been done after 120 s"
            assert "more work than time" in reply.error
        assert sorted(reply.result().status for reply in asked) == [200] * 3 + [503] * 17
        assert server.post(PREDICT, BODY).status == 200


def test_more_images_than_the_queue_holds_can_never_be_answered(tmp_path: Path) -> None:
    with one_model(tmp_path, batching={"max_batch_size": 2, "max_enqueued_batches": 2}) as server:
        reply = server.post(PREDICT, {"instances": [PICTURE] * 5})
        assert (reply.status, reply.error) == (400, "5 images in one request, more than the queue holds (4)")


def test_the_deadline(tmp_path: Path) -> None:
    with one_model(tmp_path, limits={"request_seconds": 0.4}) as server:
        with held(model_of(server)):
            reply = server.post(PREDICT, BODY)
        assert (reply.status, reply.error) == (504, "the request was not answered within 0.4 s")
        waiting = server.service.repository.models["m"].available[1]
        until(lambda: waiting.users == 0)


def test_a_client_that_leaves_is_not_worked_for(tmp_path: Path) -> None:
    with one_model(tmp_path, batching={"max_batch_size": 1}) as server:
        loaded = server.service.repository.models["m"].available[1]
        with held(model_of(server)):
            connections = [sent(server) for _ in range(6)]
            until(lambda: loaded.batcher.waiting == 5)
            for connection in connections:
                connection.close()
            until(lambda: loaded.users == 0)
        assert server.post(PREDICT, BODY).status == 200
        assert len(model_of(server).batches) == 3, "the trial, the first that came, and the last"


def test_requests_that_come_while_one_is_worked_on_wait_and_go_together(tmp_path: Path) -> None:
    with one_model(tmp_path) as server, ThreadPoolExecutor(6) as pool:
        batcher = server.service.repository.models["m"].available[1].batcher
        with held(model_of(server)):
            first = pool.submit(server.post, PREDICT, BODY)
            until(lambda: len(model_of(server).batches) == 2)
            replies = [pool.submit(server.post, PREDICT, BODY) for _ in range(5)]
            until(lambda: batcher.waiting == 5)
        assert [reply.result().status for reply in (first, *replies)] == [200] * 6
        assert model_of(server).batches[1:] == [1, 5]
        assert max(model_of(server).at_a_time) == 1
        lines = server.service.metrics.text().decode().splitlines()
        assert 'phidet_batch_size_sum{model="m"} 6.0' in lines
        assert 'phidet_queue_seconds_count{model="m"} 6.0' in lines


def test_a_client_that_leaves_does_not_take_the_worker_along(tmp_path: Path) -> None:
    with one_model(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        batcher = server.service.repository.models["m"].available[1].batcher
        with held(model_of(server)):
            with sent(server):
                until(lambda: len(model_of(server).batches) == 2)
            until(lambda: server.service.repository.models["m"].available[1].users == 0)
            reply = pool.submit(server.post, PREDICT, BODY)
            until(lambda: batcher.waiting == 1)  # the model still works on what nobody waits for
        assert reply.result().status == 200
        assert max(model_of(server).at_a_time) == 1


def test_a_client_that_leaves_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its image turns out to be broken when it has left."""
    begun, gone, done = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        try:
            assert gone.wait(600)
            raise bad_request("broken")
        finally:
            done.set()

    monkeypatch.setattr(tfserving, "decode", slow)
    with one_model(tmp_path) as server:
        loaded = server.service.repository.models["m"].available[1]
        with sent(server):
            until(begun.is_set)
        until(lambda: loaded.users == 0)
        gone.set()
        until(done.is_set)
        assert server.get("/v2/health/live").status == 200  # the event loop has heard of it
        gc.collect()
        assert server.get("/v2/health/live").status == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_bodies_on_their_way_are_not_work(tmp_path: Path) -> None:
    batching = {"max_batch_size": 1, "max_enqueued_batches": 1}
    with one_model(tmp_path, batching=batching, limits={"idle_seconds": 60}) as server:
        loaded = server.service.repository.models["m"].available[1]
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(9)]
        for connection in slow:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
        until(lambda: loaded.users == 9)
        assert server.post(PREDICT, BODY).status == 200
        for connection in slow:
            connection.close()
        until(lambda: loaded.users == 0)


def test_a_version_is_unloaded_only_after_a_request_whose_client_has_gone(tmp_path: Path) -> None:
    with one_model(tmp_path) as server:
        old, loaded = model_of(server), server.service.repository.models["m"].available[1]
        with held(old):
            with sent(server):
                until(lambda: len(old.batches) == 2)
            until(lambda: loaded.users == 0)
            write_version(tmp_path / "m", 2, "500")
            until(lambda: list(server.service.repository.models["m"].available) == [2])
            assert server.post(PREDICT, BODY).status == 200
            assert not old.closed, "it still works"
        until(lambda: old.closed)


def test_an_image_on_which_the_model_fails(tmp_path: Path) -> None:
    bad = {"instances": [b64(encoded(picture(13, 13)))]}
    with one_model(tmp_path) as server:
        for _ in range(3):
            reply = server.post(PREDICT, bad)
            assert (reply.status, reply.error) == (500, "the model failed: RuntimeError")
            assert server.post(PREDICT, {"instances": [{"b64": "!"}]}).status == 400
        assert server.post(PREDICT, BODY).json == server.post(PREDICT, BODY).json
