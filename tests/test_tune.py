"""The search over fields of the recipe: within its budget, from where it was stopped, by validation images alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import peers
from phidet import create_model, save_model
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, TrainingDivergedError, UnknownNameError
from phidet.training import tune as tuning
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.recipe import SMALL
from phidet.training.run import TrainedRun
from phidet.training.tune import Budget, Field, parse_field, resume_tune, tune

pytestmark = pytest.mark.usefixtures("unrendered")

pytest.importorskip("optuna")
Seen = list[dict[str, Any]]


def test_fields_as_they_are_written() -> None:
    assert parse_field("freeze=none,early") == Field("freeze", ("none", "early"))
    assert parse_field("augmentation.mosaic=0,0.5,null") == Field("augmentation.mosaic", (0, 0.5, None))
    assert parse_field("weight_decay=0.001..0.2") == Field("weight_decay", low=0.001, high=0.2)
    assert parse_field("learning_rate=x0.3..3") == Field("learning_rate", low=0.3, high=3, relative=True)
    for wrong in ("freeze", "=1,2", "rate=", "rate=3..1", "rate=a..b", "rate=x0..2", "rate=1..2..3"):
        with pytest.raises(ConfigError, match=r"expected (KEY|a range)"):
            parse_field(wrong)


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_model(create_model(peers.tiny_detector()), tmp_path / "t.safetensors")
    return str(tmp_path / "t.safetensors")


def pretend(monkeypatch: pytest.MonkeyPatch, seen: Seen, stop_at: int | None = None) -> None:
    """Trainings that take no time, with an optimum at a rate of 0.003 and a mosaic of 0.5."""

    def run(request: Request, settings: RunSettings, augment: object = None) -> TrainedRun:
        seen.append({**request.changes, "seed": settings.seed, "out": settings.out})
        if len(seen) == stop_at:
            settings.out.mkdir()
            (settings.out / "run.json").write_text("{}")
            raise KeyboardInterrupt
        rate = math.log10(request.changes["learning_rate"] / 0.003)
        value = 1 - rate**2 - abs(request.changes["augmentation"]["mosaic"] - 0.5)
        return TrainedRun(settings.out, None, {"ap": value, "ap50": 0.0})  # type: ignore[arg-type]

    def resume(folder: Path, settings: RunSettings, data: str, augment: object = None) -> TrainedRun:
        seen.append({"resumed": folder, "data": Path(data).name})
        return TrainedRun(folder, None, {"ap": 2.0})  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "run", run)
    monkeypatch.setattr(tuning, "resume", resume)


SEARCH = ("learning_rate=x0.1..10", "augmentation.mosaic=0,0.25,0.5")


def test_it_finds_what_is_better_and_begins_with_the_recipe(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Seen = []
    pretend(monkeypatch, seen)
    request = Request(data="data", model=model, recipe="small", changes={"epochs": 3})
    out = tmp_path / "tune"
    found = tune(request, RunSettings(out=out, seed=7), Budget(runs=14), SEARCH)
    assert len(seen) == 14
    assert seen[0]["learning_rate"] == pytest.approx(SMALL.learning_rate)
    assert seen[0]["augmentation"]["mosaic"] == SMALL.augmentation.mosaic
    assert all(one["epochs"] == 3 and one["seed"] == 7 for one in seen), "nothing else differs"
    assert all(0.0005 <= one["learning_rate"] <= 0.05 for one in seen)
    assert len({one["out"] for one in seen}) == 14
    assert [t.value for t in found.tried] == sorted((t.value for t in found.tried), reverse=True)
    assert found.tried[0].value > 0.9
    assert found.tried[0].changes["augmentation.mosaic"] == 0.5
    rows = list(csv.DictReader((out / "tune.csv").read_text().splitlines()))
    assert [int(row["run"]) for row in rows] == [t.number for t in found.tried]
    with pytest.raises(ConfigError, match="holds a search already"):
        tune(request, RunSettings(out=out), Budget(), SEARCH)


def test_a_search_that_was_stopped_goes_on(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Seen = []
    pretend(monkeypatch, seen, stop_at=3)
    out = tmp_path / "tune"
    request = Request(data="data", model=model)
    with pytest.raises(KeyboardInterrupt):
        tune(request, RunSettings(out=out), Budget(runs=5), SEARCH)
    # From where the data are now; the search keeps it.
    done = resume_tune(out, RunSettings(out=out, seed=99), Budget(runs=5), data="elsewhere")
    assert tuning.read_record(out / "tune.json", tuning.TuneRecord, "").request.data.endswith("elsewhere")
    assert seen[3] == {"resumed": out / "run-2", "data": "elsewhere"}, "the run that was stopped is finished first"
    assert len(seen) == 6
    assert [one["out"].name for one in seen if "out" in one] == ["run-0", "run-1", "run-2", "run-3", "run-4"]
    assert {one["seed"] for one in seen if "seed" in one} == {0}, "the search's own seed"
    assert done.tried[0] == tuning.Tried(2, done.tried[0].changes, 2.0)
    assert done.tried[0].changes.keys() == {"learning_rate", "augmentation.mosaic"}
    again = resume_tune(out, RunSettings(out=out), Budget(runs=5))
    assert len(seen) == 6, "nothing is left to do"
    assert again.tried == done.tried


def test_a_run_that_diverges_costs_itself_and_no_other(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with a resumed search: it would meet the same end again."""
    seen: Seen = []
    pretend(monkeypatch, seen)
    sound = tuning.run

    def run(request: Request, settings: RunSettings, augment: object = None) -> TrainedRun:
        if settings.out.name in ("run-0", "run-2"):
            raise TrainingDivergedError("the loss became nan in epoch 1, step 3: lower the learning rate")
        return sound(request, settings, augment=augment)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "run", run)
    out = tmp_path / "tune"
    found = tune(Request(data="d", model=model), RunSettings(out=out), Budget(runs=5), SEARCH)
    assert sorted(t.number for t in found.tried) == [1, 3, 4], "the budget counts it"
    assert "run 2 is left out: the loss became nan in epoch 1, step 3" in caplog.messages
    again = resume_tune(out, RunSettings(out=out), Budget(runs=6))
    assert sorted(t.number for t in again.tried) == [1, 3, 4, 5]


def test_whole_numbers_stay_whole_and_the_loss_can_be_searched(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Seen = []
    pretend(monkeypatch, seen)
    search = (*SEARCH, "batch_size=x0.5..2", "warmup_epochs=0..3", "loss.gamma=1..2")
    found = tune(Request(data="d", model=model), RunSettings(out=tmp_path / "t"), Budget(runs=6), search)
    assert [type(one["batch_size"]) for one in seen] == [int] * 6
    assert {one["batch_size"] for one in seen} <= set(range(4, 17))
    assert [seen[0][key] for key in ("batch_size", "warmup_epochs")] == [SMALL.batch_size, SMALL.warmup_epochs]
    assert seen[0]["loss"] == {"gamma": 1.5}
    assert len({one["loss"]["gamma"] for one in seen}) > 1
    assert len(found.tried) == 6


def test_time_ends_it_between_runs(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Seen = []
    pretend(monkeypatch, seen)
    clock = iter(range(0, 10**6, 50))  # seconds; each look at it takes 50
    monkeypatch.setattr(tuning, "monotonic", lambda: float(next(clock)))
    found = tune(Request(data="d", model=model), RunSettings(out=tmp_path / "t"), Budget(runs=9, minutes=2), SEARCH)
    assert len(seen) == len(found.tried) == 2
    for wrong in ({"runs": 0}, {"minutes": 0.0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)


@pytest.mark.parametrize(
    ("changes", "search", "said"),
    [
        ({"val_split": "none"}, SEARCH, "chosen by validation images"),
        ({"val_split": "test"}, SEARCH, "make its later metrics too good"),
        ({}, ("rate=1,2",), "no field 'rate'"),
        ({}, ("freeze=x1..2",), "there are no multiples"),
        ({}, ("freeze",), "expected KEY="),
        ({}, ("freeze=none,banana",), "freeze"),
        ({}, ("weight_decay=-1..1",), "weight_decay must be ≥ 0"),
        ({}, ("patience=3..10",), "patience is None, which is no number: give its values as patience=A,B,C"),
        ({}, ("loss.gama=1,2",), "no field 'loss.gama'"),
    ],
)
def test_what_cannot_be_searched(changes: Any, search: tuple[str, ...], said: str, model: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=said):
        tune(Request(data="d", model=model, **changes), RunSettings(out=tmp_path / "t"), Budget(), search)
    assert not (tmp_path / "t").exists()
    with pytest.raises(CheckpointError, match="no search in"):
        resume_tune(tmp_path / "nowhere", RunSettings(out=tmp_path / "nowhere"), Budget())


def test_the_command(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Seen = []
    pretend(monkeypatch, seen)
    out = str(tmp_path / "tune")
    words = ["tune", "data", "--model", model, "--out", out, "--runs", "3", "--search", *SEARCH]
    assert main([*words, "--epochs", "2"]) == 0
    said = capsys.readouterr().out
    assert "run-0" in said
    assert "the best one: --set learning_rate=" in said
    assert main(["tune", "--resume", out, "--runs", "4"]) == 0
    assert len(seen) == 4
    for wrong in (["--seeds", "3"], ["--resume", out, "--search", "freeze=none"]):
        assert main(["tune", *wrong]) == 2


def test_without_optuna_the_extra_is_named(model: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make: Callable[..., Any] = __import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError(name=name)
        return make(name, *args, **more)

    monkeypatch.setattr("builtins.__import__", without)
    assert main(["tune", "data", "--model", model]) == 6
    assert "pip install 'phidet[tune]'" in capsys.readouterr().err
