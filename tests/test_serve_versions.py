"""Versions come and go while requests are answered: policies, load before unload, broken and vanished folders."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phidet.serve.configuration import Policy, Source
from phidet.serve.models.versions import KEPT, Repository, ServedModel
from serve_server import BODY, Server, StandIn, held, model_of, serving, settings_for, until, write_version


def states(server: Server) -> dict[str, str]:
    reply = server.get("/v1/models/m")
    return {s["version"]: s["state"] for s in reply.json.get("model_version_status", [])}


def score(server: Server, path: str = "/v1/models/m:predict") -> float:
    reply = server.post(path, BODY)
    assert reply.status == 200, reply.body
    return float(reply.json["predictions"][0]["detection_scores"][0])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models, one for each look at a folder that has ended."""
    ended: list[str] = []
    original = Repository.poll

    async def poll(self: Repository, model: ServedModel) -> None:
        await original(self, model)
        ended.append(model.source.name)

    monkeypatch.setattr(Repository, "poll", poll)
    return ended


def test_the_latest_version_answers_and_the_old_one_ends(tmp_path: Path) -> None:
    write_version(tmp_path, "0001", "100")
    with serving(settings_for(tmp_path)) as server:
        assert score(server) == pytest.approx(0.1)
        write_version(tmp_path, 2, "200")
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})
        assert score(server) == pytest.approx(0.2)
        gone = server.post("/v1/models/m/versions/1:predict", BODY)
        assert (gone.status, gone.error) == (404, "Servable not found for request: Specific(m, 1)")


def test_a_version_that_is_taken_away_makes_room_for_the_one_before(tmp_path: Path) -> None:
    write_version(tmp_path, 1, "100")
    write_version(tmp_path, 2, "200")
    with serving(settings_for(tmp_path)) as server:
        assert states(server) == {"2": "AVAILABLE"}
        shutil.rmtree(tmp_path / "2")
        until(lambda: states(server) == {"1": "AVAILABLE", "2": "END"})
        assert score(server) == pytest.approx(0.1)


def test_where_the_latest_is_broken_from_the_start_the_one_before_answers(tmp_path: Path) -> None:
    for version, content in ((1, "100"), (2, "200"), (3, "broken")):
        write_version(tmp_path, version, content)
    with serving(settings_for(tmp_path)) as server:
        assert states(server) == {"2": "AVAILABLE", "3": "END"}
        assert score(server) == pytest.approx(0.2)
        assert server.get("/v2/health/ready").status == 200
        write_version(tmp_path, 4, "400")
        until(lambda: states(server) == {"2": "END", "3": "END", "4": "AVAILABLE"})


def test_versions_are_numbers_of_64_bits(tmp_path: Path) -> None:
    largest = 2**63 - 1
    write_version(tmp_path, largest, "300")
    write_version(tmp_path, largest + 1, "400")
    with serving(settings_for(tmp_path)) as server:
        assert states(server) == {str(largest): "AVAILABLE"}
        assert score(server, f"/v1/models/m/versions/{largest}:predict") == pytest.approx(0.3)
        assert server.get(f"/v2/models/m/versions/{largest}").status == 200
        assert server.get(f"/v2/models/m/versions/{largest + 1}").status == 400


def test_polling_every_0_seconds_is_looking_once(tmp_path: Path) -> None:
    write_version(tmp_path, 1, "100")
    with serving(settings_for(tmp_path, poll_seconds=0.0)) as server:
        write_version(tmp_path, 2, "200")
        time.sleep(0.3)
        assert states(server) == {"1": "AVAILABLE"}


def test_a_folder_without_versions_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, looks: list[str]
) -> None:
    with serving(settings_for(tmp_path), ready=False) as server:
        until(lambda: len(looks) >= 5)
        assert server.post("/v1/models/m:predict", BODY).status == 404
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [f"model m: no version to serve in {tmp_path}"]


@pytest.mark.parametrize(
    ("policy", "available"),
    [
        (Policy(latest=1), {"4"}),
        (Policy(latest=2), {"3", "4"}),
        (Policy(), {"1", "3", "4"}),
        (Policy(specific=(1, 3, 99)), {"1", "3"}),
    ],
)
def test_policies(tmp_path: Path, policy: Policy, available: set[str]) -> None:
    for version in (1, 3, 4):
        write_version(tmp_path, version, f"{version}00")
    for other in ("x", "5a", "-6", ".7"):
        (tmp_path / other).mkdir()
    (tmp_path / "8").write_text("a file, not a folder")
    with serving(settings_for(tmp_path, sources=(Source("m", tmp_path, policy),))) as server:
        until(lambda: states(server).keys() == available)
        assert set(states(server).values()) == {"AVAILABLE"}


def test_a_broken_version_is_reported_and_the_old_one_stays(tmp_path: Path) -> None:
    write_version(tmp_path, 1, "100")
    with serving(settings_for(tmp_path)) as server:
        write_version(tmp_path, 2, "broken")
        until(lambda: states(server) == {"1": "AVAILABLE", "2": "END"})
        (failed,) = server.get("/v1/models/m/versions/2").json["model_version_status"]
        assert failed["status"] == {
            "error_code": "UNKNOWN",
            "error_message": f"{tmp_path}/2/model.onnx is not a model",
        }
        assert score(server) == pytest.approx(0.1)
        assert server.get("/v2/health/ready").status == 200
        part = tmp_path / "2" / "part"  # mended in place
        part.write_text("200")
        part.replace(tmp_path / "2" / "model.onnx")
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})
        assert score(server) == pytest.approx(0.2)


def test_a_model_that_loads_but_cannot_answer_does_not_replace_one_that_can(tmp_path: Path) -> None:
    class Mute(StandIn):
        def detect(self, images: object) -> list[object]:  # type: ignore[override]
            raise RuntimeError("mute")

    write_version(tmp_path, 1, "100")
    write_version(tmp_path, 2, "200")

    def load(path: Path) -> StandIn:
        return Mute(path) if path.parent.name == "2" else StandIn(path)

    with serving(settings_for(tmp_path, sources=(Source("m", tmp_path, Policy()),)), load) as server:
        until(lambda: states(server) == {"1": "AVAILABLE", "2": "END"})
        (failed,) = server.get("/v1/models/m/versions/2").json["model_version_status"]
        assert failed["status"]["error_message"] == "RuntimeError: mute"


def test_a_folder_that_vanishes_unloads_nothing(tmp_path: Path, looks: list[str]) -> None:
    base = tmp_path / "m"
    write_version(base, 1, "100")
    with serving(settings_for(base)) as server:
        shutil.rmtree(base)
        before = server.service.metrics.text()
        for _ in range(5):
            assert score(server) == pytest.approx(0.1)
            seen = len(looks)
            until(lambda seen=seen: len(looks) > seen)
        assert states(server) == {"1": "AVAILABLE"}
        assert b'outcome="failed"' not in before
        write_version(base, 2, "200")
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})


def test_requests_in_flight_finish_on_the_version_they_began_with(tmp_path: Path) -> None:
    write_version(tmp_path, 1, "100")
    with serving(settings_for(tmp_path)) as server, ThreadPoolExecutor(4) as pool:
        with held(model_of(server)):
            slow = [pool.submit(score, server) for _ in range(4)]
            until(lambda: server.service.repository.models["m"].available[1].users == 4)
            write_version(tmp_path, 2, "200")
            until(lambda: states(server).get("2") == "AVAILABLE")
            until(lambda: states(server)["1"] == "UNLOADING")
            assert score(server) == pytest.approx(0.2)
            assert states(server)["1"] == "UNLOADING"
            assert not any(future.done() for future in slow)
        assert [future.result() for future in slow] == pytest.approx([0.1] * 4)
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})


def test_unloading_closes_models_and_their_metrics(tmp_path: Path) -> None:
    loaded: list[StandIn] = []

    def load(path: Path) -> StandIn:
        loaded.append(StandIn(path))
        return loaded[-1]

    threads_before = threading.active_count()
    write_version(tmp_path, 1, "100")
    with serving(settings_for(tmp_path), load) as server:
        for version in range(2, 8):
            write_version(tmp_path, version, "100")
            until(lambda v=version: states(server).get(str(v)) == "AVAILABLE")
        until(lambda: [model.closed for model in loaded] == [True] * 6 + [False])
        score(server)
        until(lambda: server.service.metrics.text().count(b"phidet_model_version_available{") == 1)
        assert server.service.metrics.text().count(b'version="7"') == 1
    assert loaded[-1].closed
    until(lambda: threading.active_count() <= threads_before)


def test_only_so_many_ended_versions_stay_listed(tmp_path: Path) -> None:
    model = ServedModel(Source("m", tmp_path))
    for version in range(KEPT + 50):
        model.set_state(version, "END", "broken")
    model.set_state(KEPT + 50, "AVAILABLE")
    assert sorted(model.states) == list(range(50, KEPT + 51))


def test_a_version_folder_must_hold_one_model_file(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "2" / name).write_text("100")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with serving(settings_for(tmp_path, sources=(Source("m", tmp_path, Policy()),)), ready=False) as server:
        until(lambda: states(server) == dict.fromkeys("123", "END"))
        messages = [s["status"]["error_message"] for s in server.get("/v1/models/m").json["model_version_status"]]
        assert messages == [
            f"{tmp_path}/1 must hold one model file (*.onnx or *.xml or *.tflite), found none",
            f"{tmp_path}/2 must hold one model file (*.onnx or *.xml or *.tflite), found a.onnx, b.onnx",
            f"{tmp_path}/3 must hold one model file (*.onnx or *.xml or *.tflite), found none",
        ]
        assert server.get("/v2/health/ready").status == 503
        assert server.get("/v2/health/live").status == 200
        assert server.post("/v1/models/m:predict", BODY).error == "Servable not found for request: Latest(m)"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    outside.write_text("100")
    base = tmp_path / "m"
    (base / "1").mkdir(parents=True)
    (base / "1" / "model.onnx").symlink_to(outside)
    write_version(base, "..data", "300")
    (base / "2").symlink_to("..data")  # inside, as Kubernetes mounts volumes
    with serving(settings_for(base, sources=(Source("m", base, Policy()),))) as server:
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})
        message = server.get("/v1/models/m/versions/1").json["model_version_status"][0]["status"]["error_message"]
        assert message == f"{base}/1/model.onnx leads out of {base}: models are loaded only from their folder"


def test_several_models_have_their_own_versions(tmp_path: Path) -> None:
    sources = []
    for i, name in enumerate(("one", "two")):
        write_version(tmp_path / name, i + 1, f"{i + 1}00")
        sources.append(Source(name, tmp_path / name))
    with serving(settings_for(tmp_path, sources=tuple(sources))) as server:
        for i, name in enumerate(("one", "two")):
            assert score(server, f"/v1/models/{name}:predict") == pytest.approx((i + 1) / 10)
        index = server.post("/v2/repository/index", b"").body
        assert json.loads(index) == [
            {"name": "one", "version": "1", "state": "READY", "reason": ""},
            {"name": "two", "version": "2", "state": "READY", "reason": ""},
        ]
        write_version(tmp_path / "two", 3, "broken")
        until(lambda: len(server.post("/v2/repository/index", b"{}").json) == 3)
        ready = server.post("/v2/repository/index", {"ready": True}).json
        assert [(model["name"], model["version"]) for model in ready] == [("one", "1"), ("two", "2")]
        assert server.post("/v2/repository/index", b"{").status == 400


def test_a_new_version_every_moment_under_load_fails_no_request(tmp_path: Path) -> None:
    write_version(tmp_path, 1, "1 0.01")
    stop = threading.Event()
    heard: set[int] = set()

    def keep_asking(server: Server) -> list[float]:
        scores = []
        while not stop.is_set():
            scores.append(score(server))
            heard.add(round(scores[-1] * 1000))
        return scores

    with serving(settings_for(tmp_path)) as server, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking, server) for _ in range(8)]
        try:
            until(lambda: 1 in heard)
            for version in range(2, 22):
                write_version(tmp_path, version, f"{version} 0.01")
                until(lambda v=version: v in heard)
        finally:
            stop.set()
        for future in asking:
            assert future.result() == sorted(future.result()), "no client goes back to an old version"
    assert heard == set(range(1, 22))
