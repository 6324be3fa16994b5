"""What surrounds a server: variables of its environment, and files that other programs leave beside its models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError
from phidet.serve.configuration import Policy, ServerSettings, Source
from phidet.serve.models.model import model_file
from serve_server import serving, settings_for, until, write_version

BLANK = ("", "  ", "\t\r\n", "\N{ZERO WIDTH SPACE}", "two\nlines")


@pytest.mark.parametrize("token", BLANK)
def test_a_blank_token_is_refused(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret that was not filled in must not open the server to all."""
    with pytest.raises(ConfigError, match="the server's token is empty or has characters"):
        ServerSettings(sources=(Source("m", tmp_path),), token=token)
    monkeypatch.setenv("PHIDET_SERVE_TOKEN", token)
    assert main(["serve", "--model_name", "m", "--model_base_path", str(tmp_path)]) == 2
    assert "set PHIDET_SERVE_TOKEN to a secret, or remove it from the environment" in capsys.readouterr().err


def test_a_token_may_end_with_a_line_break_as_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[ServerSettings] = []
    monkeypatch.setattr("phidet.serve.server.run", lambda settings, *_: kept.append(settings))
    for variable, token in ((" secret \n", "secret"), (None, None)):
        if variable is None:
            monkeypatch.delenv("PHIDET_SERVE_TOKEN")
        else:
            monkeypatch.setenv("PHIDET_SERVE_TOKEN", variable)
        assert main(["serve", "--model_name", "m", "--model_base_path", str(tmp_path)]) == 0
        assert kept[-1].token == token


COUNT = """
import os
from phidet.serve.metrics import Metrics
metrics = Metrics()
metrics.loads.labels("m", "loaded").inc()
assert b'phidet_model_loads_total{model="m",outcome="loaded"} 1.0' in metrics.text()
print(os.environ["PROMETHEUS_MULTIPROC_DIR"], os.environ["prometheus_multiproc_dir"])
"""


@pytest.mark.parametrize("exists", [True, False])
def test_values_of_metrics_stay_in_memory(tmp_path: Path, exists: bool) -> None:
    """Also where the environment is that of a server of several processes."""
    folder = tmp_path / "values"
    if exists:
        folder.mkdir()
    variables = dict.fromkeys(("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"), str(folder))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COUNT], env={**os.environ, **variables}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(folder)] * 2, "other programs of the process still see them"
    assert not exists or os.listdir(folder) == []


HIDDEN = ("._model.onnx", ".DS_Store", ".model.onnx.swp", ".model.xml", "._model.tflite", "Thumbs.db", ".nfs0001.onnx")


def test_hidden_files_beside_a_model_are_ignored(tmp_path: Path) -> None:
    version = write_version(tmp_path, 1, "100")
    for name in HIDDEN:
        (version / name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    for name in ("._2", ".3", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert model_file(version, tmp_path) == version / "model.onnx"
    with serving(settings_for(tmp_path, sources=(Source("m", tmp_path, Policy()),))) as server:
        until(lambda: list(server.service.repository.models["m"].available) == [1])
        assert list(server.service.repository.models["m"].states) == [1]


def test_hidden_files_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "._model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"must hold one model file .*, found none"):
        model_file(tmp_path / "1", tmp_path)


def test_a_server_without_grpc_and_traces_does_not_load_them() -> None:
    code = (
        "import sys, phidet.cli.serve, phidet.serve.server, phidet.serve.http.app\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'opentelemetry', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "[]\n"
