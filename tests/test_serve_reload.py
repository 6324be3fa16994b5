"""The configuration file changes while the server runs: models come, go and move, and the others go on answering."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phidet.serve.config_files import read_model_config
from serve_server import BODY, Server, StandIn, held, serving, settings_for, until, write_version


def config(*models: tuple[str, Path], extra: str = "") -> str:
    listed = " ".join(f'config {{ name: "{name}" base_path: "{folder}" {extra} }}' for name, folder in models)
    return f"model_config_list {{ {listed} }}"


def replace(path: Path, text: str) -> None:
    """At once, as careful editors and Kubernetes do."""
    part = path.with_name("part")
    part.write_text(text)
    part.replace(path)


@contextlib.contextmanager
def running(path: Path, text: str, **changes: float) -> Iterator[Server]:
    path.write_text(text)
    settings = settings_for(
        path.parent, sources=read_model_config(path), config_file=path, **{"config_poll_seconds": 0.05, **changes}
    )
    with serving(settings) as server:
        yield server


def score(server: Server, name: str) -> float:
    reply = server.post(f"/v1/models/{name}:predict", BODY)
    assert reply.status == 200, reply.body
    return float(reply.json["predictions"][0]["detection_scores"][0])


def answers(server: Server, name: str) -> float | None:
    """The score that tells which model answers, ``None`` where none does."""
    reply = server.post(f"/v1/models/{name}:predict", BODY)
    return float(reply.json["predictions"][0]["detection_scores"][0]) if reply.status == 200 else None


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three models of version 1 with the scores 0.1, 0.2, 0.3."""
    for i, name in enumerate("abc"):
        write_version(tmp_path / name, 1, f"{i + 1}00")
    return {name: tmp_path / name for name in "abc"}


def test_models_come_and_go(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "models.config"
    with running(file, config(("one", folders["a"]), ("two", folders["b"]))) as server:
        old = server.service.repository.models["two"].available[1].model
        assert isinstance(old, StandIn)
        replace(file, config(("one", folders["a"]), ("three", folders["c"])))
        until(lambda: answers(server, "three") == pytest.approx(0.3))
        until(lambda: old.closed)
        assert server.get("/v1/models/two").error == "Could not find any versions of model two"
        assert server.post("/v1/models/two:predict", BODY).status == 404
        assert score(server, "one") == pytest.approx(0.1)
        index = server.post("/v2/repository/index", b"").json
        assert [(entry["name"], entry["state"]) for entry in index] == [("one", "READY"), ("three", "READY")]
        names = server.get("/openapi.json").json["paths"]["/v2/models/{model}"]["get"]["parameters"][0]["schema"]
        assert names["enum"] == ["one", "three"]
        until(lambda: b'available{model="two"' not in server.service.metrics.text())


def test_relative_folders_and_a_link_to_the_file(tmp_path: Path, folders: dict[str, Path]) -> None:
    """As Kubernetes mounts a ConfigMap: the file is a link into a folder that is exchanged."""
    for i, name in enumerate("ab"):
        (tmp_path / f"..{i}").mkdir()
        (tmp_path / f"..{i}" / "models.config").write_text(config(("m", folders[name])))
    data = tmp_path / "..data"
    data.symlink_to("..0")
    file = tmp_path / "models.config"
    file.symlink_to("..data/models.config")
    settings = settings_for(tmp_path, sources=read_model_config(file), config_file=file, config_poll_seconds=0.05)
    with serving(settings) as server:
        assert score(server, "m") == pytest.approx(0.1)
        (tmp_path / "new").symlink_to("..1")
        (tmp_path / "new").replace(data)
        until(lambda: answers(server, "m") == pytest.approx(0.2))


def test_policy_and_labels_change_without_a_new_load(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "models.config"
    write_version(folders["a"], 2, "900")
    with running(file, config(("m", folders["a"]))) as server:
        kept = server.service.repository.models["m"].available[2].model
        extra = "model_version_policy { all { } } version_labels { key: 'old' value: 1 }"
        replace(file, config(("m", folders["a"]), extra=extra))
        until(lambda: server.post("/v1/models/m/labels/old:predict", BODY).status == 200)
        assert server.service.repository.models["m"].available[2].model is kept
        replace(file, config(("m", folders["a"]), extra="model_version_policy { specific { versions: 1 } }"))
        until(lambda: list(server.service.repository.models["m"].available) == [1])
        assert server.post("/v1/models/m/labels/old:predict", BODY).status == 400


def test_another_folder_takes_over_when_it_answers(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Version 1 of the one is not version 1 of the other; requests in flight end on the old one."""
    file = tmp_path / "models.config"
    broken = write_version(tmp_path / "d", 1, "broken")
    with running(file, config(("m", folders["a"]))) as server, ThreadPoolExecutor(1) as pool:
        old = server.service.repository.models["m"].available[1].model
        assert isinstance(old, StandIn)
        replace(file, config(("m", broken.parent)))
        failed = b'phidet_model_loads_total{model="m",outcome="failed"} 1.0'
        until(lambda: failed in server.service.metrics.text())
        assert score(server, "m") == pytest.approx(0.1), "nothing of the new folder can answer"
        assert server.get("/v2/health/ready").status == 200
        with held(old):
            asked = pool.submit(score, server, "m")
            until(lambda: len(old.batches) == 3)
            replace(file, config(("m", folders["b"])))
            until(lambda: server.service.repository.models["m"].source.base_path == folders["b"])
            assert score(server, "m") == pytest.approx(0.2)
            assert not old.closed
        assert asked.result() == pytest.approx(0.1)
        until(lambda: old.closed)
        assert b'available{model="m",version="1"} 1.0' in server.service.metrics.text()
        replace(file, config(("m", folders["a"])))
        until(lambda: answers(server, "m") == pytest.approx(0.1))


def test_back_to_the_old_folder_before_the_new_one_answers(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "models.config"
    broken = write_version(tmp_path / "d", 1, "broken").parent
    with running(file, config(("m", folders["a"]))) as server:
        repository = server.service.repository
        kept = repository.models["m"]
        replace(file, config(("m", broken)))
        until(lambda: "m" in repository._successors)
        replace(file, config(("m", folders["a"]), extra="version_labels { key: 'l' value: 1 }"))
        until(lambda: not repository._successors)
        write_version(broken, 2, "700")  # nobody looks there any more
        assert repository.models["m"] is kept
        assert server.post("/v1/models/m/labels/l:predict", BODY).status == 200
        assert score(server, "m") == pytest.approx(0.1)


def test_a_file_that_cannot_be_used_changes_nothing(
    tmp_path: Path, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.config"

    def errors() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]

    with running(file, config(("m", folders["a"]))) as server:
        twice = config(("n", folders["a"]), ("n", folders["b"]))
        texts = ("", "model_config_list {", config(("n", tmp_path / "later")), twice, "\udcff")
        for i, text in enumerate(texts):
            part = tmp_path / "part"
            part.write_bytes(text.encode("utf-8", "surrogateescape"))
            part.replace(file)
            until(lambda i=i: len(errors()) > i)
            assert score(server, "m") == pytest.approx(0.1)
        file.unlink()
        until(lambda: len(errors()) == len(texts) + 1)
        parts = ("got no model", 'Expected "}"', "no folder", "each name once", "utf-8", "No such")
        for error, part in zip(errors(), parts, strict=True):
            assert part in error
            assert error.endswith(". The models that are served stay as they are")
        replace(file, config(("n", tmp_path / "later")))
        until(lambda: len(errors()) == len(texts) + 2)
        write_version(tmp_path / "later", 1, "700")  # the file is the same, what it names has come
        until(lambda: answers(server, "n") == pytest.approx(0.7))
        assert len(errors()) == len(texts) + 2, "each is logged once"


def test_a_new_model_that_is_broken_does_not_make_the_server_unready(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "models.config"
    write_version(tmp_path / "d", 1, "broken")
    with running(file, config(("m", folders["a"]))) as server:
        replace(file, config(("m", folders["a"]), ("bad", tmp_path / "d")))
        until(lambda: server.get("/v1/models/bad").status == 200)
        until(lambda: server.get("/v1/models/bad").json["model_version_status"][0]["state"] == "END")
        assert server.get("/v2/health/ready").status == 200
        assert server.get("/v2/models/bad/ready").status == 503
        write_version(tmp_path / "d", 2, "400")
        until(lambda: answers(server, "bad") == pytest.approx(0.4))


def test_a_file_is_read_once_where_polling_is_off(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "models.config"
    with running(file, config(("m", folders["a"])), config_poll_seconds=0) as server:
        assert server.service._following is None
        os.unlink(file)
        assert score(server, "m") == pytest.approx(0.1)


def test_models_of_the_file_are_loaded_once_where_folders_are_not_polled(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    file = tmp_path / "models.config"
    with running(file, config(("m", folders["a"])), poll_seconds=0) as server:
        replace(file, config(("m", folders["b"]), ("n", folders["c"])))
        until(lambda: answers(server, "n") == pytest.approx(0.3))
        until(lambda: answers(server, "m") == pytest.approx(0.2))
