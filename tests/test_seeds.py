"""Several seeds, one after the other: each an ordinary run, on the same validation images, with a table of them all."""

from __future__ import annotations

import csv
import json
import logging
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import peers
from phidet import create_model, load_model, save_model
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.structs import replace
from phidet.training import seeds as seeding
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.run import run
from phidet.training.seeds import resume_seeds, spreads_of, train_seeds
from phidet.weights.mapping import weights_of
from test_train_run import CLASSES, write_squares

pytestmark = pytest.mark.usefixtures("unrendered")
CHANGES = {"epochs": 1, "batch_size": 4, "warmup_epochs": 0.5}


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    torch.manual_seed(0)
    save_model(
        create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 128)})), tmp_path / "t.safetensors"
    )
    data = write_squares(tmp_path / "data", 10)
    return Request(data=str(data), model=str(tmp_path / "t.safetensors"), changes=CHANGES)


def settings(out: Path, seed: int = 4) -> RunSettings:
    return RunSettings(out=out, seed=seed, workers=0, accelerator="cpu")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_mean_and_deviation_by_hand() -> None:
    spreads = spreads_of([{"ap": 0.2, "ap50": 0.5}, {"ap": 0.4, "ap50": 0.7}, {"ap": 0.3}])
    assert spreads.keys() == {"ap"}, "what one run lacks cannot be compared"
    assert spreads["ap"].mean == pytest.approx(0.3)
    assert spreads["ap"].deviation == pytest.approx(0.1)
    assert str(spreads["ap"]) == "0.3000 ± 0.1000 (0.2000–0.4000)"
    assert spreads_of([{"ap": 0.2}])["ap"].deviation is None
    assert spreads_of([]) == {}


def test_every_run_is_the_one_of_its_seed_and_all_hold_out_the_same_images(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "phidet")
    out = tmp_path / "runs"
    real, begun = seeding.run, []

    def stopped(request: Request, settings: RunSettings, **more: Any) -> Any:
        begun.append(settings.seed)
        if begun == [4, 5]:
            raise KeyboardInterrupt
        return real(request, settings, **more)

    monkeypatch.setattr(seeding, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(request_, settings(out), 2)
    assert json.loads((out / "seeds.json").read_text())["metrics"].keys() == {"4"}
    first = (out / "seed-4" / "best.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds runs already"):
        train_seeds(request_, settings(out), 2)
    done = resume_seeds(out, settings(out, seed=99))
    assert begun == [4, 5, 5], "a finished run is not trained again"
    assert (out / "seed-4" / "best.safetensors").read_bytes() == first
    assert "seed 5, run 2 of 2" in caplog.text

    held = [[row["name"] for row in rows_of(out / f"seed-{s}" / "images.csv") if row["part"] == "val"] for s in (4, 5)]
    assert held[0] == held[1]
    assert held[0]
    alone = run(msgspec.structs.replace(request_, split_seed=4), settings(tmp_path / "alone", seed=5))
    ours = weights_of(load_model(out / "seed-5" / "last.safetensors"))
    theirs = weights_of(load_model(alone.folder / "last.safetensors"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    rows = {row["run"]: row for row in rows_of(out / "seeds.csv")}
    assert list(rows) == ["seed 4", "seed 5", "mean", "standard deviation"]
    values = [done.metrics[seed]["ap"] for seed in (4, 5)]
    assert [float(rows[f"seed {seed}"]["ap"]) for seed in (4, 5)] == pytest.approx(values, abs=1e-5)
    assert float(rows["mean"]["ap"]) == pytest.approx(statistics.fmean(values), abs=1e-5)
    assert float(rows["standard deviation"]["ap"]) == pytest.approx(statistics.stdev(values), abs=1e-5)


def test_the_command_prints_the_table(request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    words = ["train", request_.data, "--model", request_.model, "--epochs", "1", "--batch-size", "4"]
    words += ["--workers", "0", "--accelerator", "cpu", "--out", str(out)]
    assert main([*words, "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("seed 0", "seed 1", "mean", "standard deviation", "ap50"))
    assert main(["train", "--resume", str(out), "--workers", "0", "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == said.splitlines()[:4]
    assert main(["train", "--resume", str(out), "--seeds", "3"]) == 2


def test_data_that_were_moved_are_named_when_it_goes_on(request_: Request, tmp_path: Path) -> None:
    out, new = tmp_path / "runs", tmp_path / "elsewhere"
    real = seeding.run
    with pytest.MonkeyPatch.context() as patch:

        def stopped(request: Request, settings: RunSettings, **more: Any) -> Any:
            if settings.seed == 5:
                raise KeyboardInterrupt
            return real(request, settings, **more)

        patch.setattr(seeding, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_seeds(request_, settings(out), 2)
    Path(request_.data).rename(new)
    words = ["train", "--resume", str(out), "--workers", "0", "--accelerator", "cpu"]
    assert main(words) == 3
    assert main([*words[:1], str(new), *words[1:]]) == 0
    assert json.loads((out / "seeds.json").read_text())["request"]["data"] == str(new)
    assert len(rows_of(out / "seeds.csv")) == 4


def test_what_cannot_be_compared(request_: Request, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a whole number ≥ 2, got 1"):
        train_seeds(request_, settings(tmp_path / "a"), 1)
    with pytest.raises(ConfigError, match="nothing to compare"):
        train_seeds(msgspec.structs.replace(request_, val_split="none"), settings(tmp_path / "a"), 2)
    with pytest.raises(ConfigError, match="on one device"):
        train_seeds(request_, msgspec.structs.replace(settings(tmp_path / "a"), devices=2), 2)
    assert not (tmp_path / "a").exists()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        resume_seeds(tmp_path / "a", settings(tmp_path / "a"))
    (tmp_path / "seeds.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        resume_seeds(tmp_path, settings(tmp_path))
