"""The batch that a GPU's memory allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import peers
from phidet import create_model, load_model, save_model, train
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.core.structs import replace
from phidet.data.layouts import open_data
from phidet.training import batch_size
from phidet.training.batch_size import largest_batch, with_fitting_batch
from phidet.training.fit import RunSettings
from phidet.training.learner import OneNetwork
from phidet.training.recipe import recipe_named
from phidet.training.task import Task
from test_train_run import CLASSES, write_squares

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.mark.parametrize(
    ("wanted", "images", "room", "batch", "times"),
    [
        (8, 10_000, 100, 64, 1),  # never above 64
        (8, 10_000, 40, 32, 1),  # the largest doubling that fits
        (8, 300, 100, 16, 1),  # 300 images in batches of 32 would be 9 steps
        (8, 10, 100, 8, 1),  # the recipe's own stays, however few images
        (8, 10_000, 7, 4, 2),
        (8, 10_000, 1, 1, 8),
        (12, 10_000, 5, 3, 4),
        (5, 10_000, 4, 3, 2),
        (128, 10_000, 100, 64, 2),
    ],
)
def test_what_fits_is_taken_and_an_update_keeps_its_images(
    wanted: int, images: int, room: int, batch: int, times: int
) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= room

    assert largest_batch(wanted, images, fits) == (batch, times)
    assert len(tried) == len(set(tried))


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="not even one image fits"):
        largest_batch(8, 100, lambda size: False)


class Memory(batch_size.GpuMemory):
    """Of a GPU that is not there; a step of more than ``room`` images is out of memory, one of as many nearly is."""

    def total(self) -> int:
        return 1000

    def clear(self) -> None:
        pass

    def peak(self) -> int:
        return 850


def small_gpu(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    step = OneNetwork.step

    def limited(self: OneNetwork, batch: Any, at: Any) -> dict[str, float]:
        if len(batch[0]) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return step(self, batch, at)

    monkeypatch.setattr(OneNetwork, "step", limited)
    monkeypatch.setattr(batch_size, "memory_of", Memory)


def test_a_run_is_that_of_the_batch_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying leaves nothing behind: the weights are those of a run that was told the numbers."""
    write_squares(tmp_path / "data")
    torch.manual_seed(0)
    tiny = tmp_path / "tiny.safetensors"
    save_model(create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)})), tiny)
    quick = {"epochs": 1, "batch_size": 4, "augmentation": {"mosaic": 0.0}}

    def weights(name: str, auto: bool, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
        settings = RunSettings(out=tmp_path / name, workers=0, accelerator="cpu", auto_batch=auto)
        train(tmp_path / "data", tiny, splits=(None, "none"), changes={**quick, **changes}, settings=settings)
        return load_model(tmp_path / name / "last.safetensors").state_dict()

    told = weights("told", False, {"batch_size": 2, "accumulate": 2})
    small_gpu(monkeypatch, 3)
    found = weights("found", True, {})
    recipe = json.loads((tmp_path / "found/run.json").read_text())["recipe"]
    assert (recipe["batch_size"], recipe["accumulate"]) == (2, 2)
    assert all(torch.equal(found[name], told[name]) for name in told)


def test_without_a_gpu_nothing_changes_and_other_words_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_squares(tmp_path / "data")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(data), "-o", str(tmp_path / "run"), "--batch-size", "many"])
    assert ended.value.code == 2
    assert "expected a whole number or auto, got 'many'" in capsys.readouterr().err
    model = create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)}))
    task = Task(model.config, open_data(data).read("train"), None)
    settings = RunSettings(out=tmp_path / "run", accelerator="cpu", devices=1, auto_batch=True)
    recipe = recipe_named("auto", 8)
    with caplog.at_level("INFO", "phidet"):
        assert with_fitting_batch(model, task, recipe, settings) == recipe
    assert "batch 8, the recipe's" in caplog.text
