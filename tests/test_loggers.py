"""Who else is told the metrics of a run: nobody unless asked, and never at the run's cost."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from peers import tiny_detector
from phidet.cli.main import main, parse
from phidet.core.errors import MissingExtraError, UnknownNameError
from phidet.training.loggers import Loggers, check_loggers
from phidet.weights.create import create_model
from phidet.weights.native import save_model
from test_train_run import write_squares

pytestmark = pytest.mark.usefixtures("unrendered")
SEEN: list[tuple[str, Any]] = []


class FakeLogger:
    """What Lightning's loggers have in common; says what it is told."""

    def __init__(self, **given: Any) -> None:
        SEEN.append((type(self).__name__, given))

    def log_hyperparams(self, about: dict[str, Any]) -> None:
        SEEN.append(("about", about))

    def log_metrics(self, row: dict[str, float], step: int) -> None:
        SEEN.append(("row", (step, row)))

    def finalize(self, status: str) -> None:
        SEEN.append(("end", status))


class WandbLogger(FakeLogger):
    pass


class MLFlowLogger(FakeLogger):
    pass


class CometLogger(FakeLogger):
    def log_metrics(self, row: dict[str, float], step: int) -> None:
        raise ConnectionError("no\nnetwork")


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's loggers and their clients, as if they were installed."""
    SEEN.clear()
    for name in ("pytorch_lightning", "pytorch_lightning.loggers", "wandb", "mlflow", "comet_ml"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    loggers = sys.modules["pytorch_lightning.loggers"]
    for kind in (WandbLogger, MLFlowLogger, CometLogger):
        setattr(loggers, kind.__name__, kind)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("lightning")
def test_loggers_are_told_the_run_and_each_epoch_and_a_failing_one_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = Loggers(("wandb", "mlflow", "comet"), tmp_path / "lite0-1", {"seed": 3})
    loggers.tell({"loss": 0.5}, 1)
    loggers.tell({"loss": 0.25}, 2)
    loggers.close()
    opened = dict(SEEN[::2][:3])
    assert opened["WandbLogger"] == {"project": "phidet", "name": "lite0-1", "save_dir": str(tmp_path / "lite0-1")}
    assert opened["MLFlowLogger"]["tracking_uri"] == f"sqlite:///{tmp_path}/lite0-1/mlflow.db"
    assert opened["CometLogger"] == {"project": "phidet", "name": "lite0-1"}
    assert [value for kind, value in SEEN if kind == "about"] == [{"seed": 3}] * 3
    assert [value for kind, value in SEEN if kind == "row"] == [(1, {"loss": 0.5})] * 2 + [(2, {"loss": 0.25})] * 2
    assert [value for kind, value in SEEN if kind == "end"] == ["success"] * 2
    assert [r.getMessage() for r in caplog.records] == ["going on without comet: no network"]


def test_what_is_not_known_or_not_installed_is_said_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(())
    with pytest.raises(UnknownNameError, match=r"unknown logger 'wandbb'\. Did you mean wandb"):
        check_loggers(("wandbb",))
    monkeypatch.setattr("phidet.training.loggers.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--log mlflow needs .*'phidet\[mlflow\]'"):
        check_loggers(("mlflow",))


@pytest.mark.usefixtures("lightning")
def test_a_run_tells_whom_it_is_asked_to_and_keeps_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "photos")
    save_model(create_model(tiny_detector()), tmp_path / "tiny.safetensors")
    line = ["train", "photos", "--model", "tiny.safetensors", "--out", "run", "--epochs", "2", "--batch-size", "2",
            "--workers", "0", "--accelerator", "cpu", "--val-split", "none"]  # fmt: skip
    assert main([*line, "--log", "wandb"]) == 0, capsys.readouterr().err
    rows = [value for kind, value in SEEN if kind == "row"]
    metrics = msgspec.json.decode(Path("run/metrics.json").read_bytes())
    assert [step for step, _ in rows] == [1, 2]
    assert [row["loss"] for _, row in rows] == [row["loss"] for row in metrics]
    [about] = [value for kind, value in SEEN if kind == "about"]
    assert about["recipe"]["epochs"] == 2
    again = parse(["train", "--config", "run/options.toml"], "train")
    first = parse([*line, "--log", "wandb"], "train")
    assert {k: v for k, v in vars(again).items() if k != "config"} == {
        k: v for k, v in vars(first).items() if k != "config"
    }
    SEEN.clear()
    assert main([*line[:5], "quiet", *line[6:]]) == 0
    assert SEEN == []
