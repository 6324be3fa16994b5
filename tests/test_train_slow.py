"""What takes minutes: a few images learned by heart, and three hundred epochs in the same memory. Run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning_fabric import Fabric

import peers
from phidet import create_model, save_model, train
from phidet.data.layouts import open_data
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.training import fit as training
from phidet.training.evaluate import detect
from phidet.training.fit import RunSettings, fit
from phidet.training.recipe import SMALL, Augmentation, replace
from phidet.training.task import Task
from test_train_run import CLASSES, QUICK, settings, write_squares

pytestmark = pytest.mark.slow


def test_eight_images_of_eighty_classes_are_learned_by_heart(shared: Path, tmp_path: Path) -> None:
    folder = open_data(shared / "data" / "coco128" / "object_detection")
    eight = folder.read(folder.splits[0]).subset(range(8), "eight")
    assert len(eight.class_names) == 80
    model = create_model("efficientdet-lite0", class_names=eight.class_names, pretrained="backbone")
    still = Augmentation(scale_jitter=(1.0, 1.0), flip=0.0)
    recipe = replace(SMALL, {"epochs": 10, "batch_size": 8, "augmentation": still})
    again = eight.subset([*range(8)] * 20, "eight, twenty times")  # an epoch that is worth its files
    trained = fit(model, Task(model.config, again, None), recipe, settings(tmp_path / "run"))
    report = evaluate_coco(*detect(trained, eight, Fabric(accelerator="cpu", devices=1), workers=0))
    print(f"AP {report.ap:.3f}")
    assert report.ap is not None
    assert report.ap > 0.9


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024


def test_three_hundred_epochs_do_not_grow_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, sizes, original = write_squares(tmp_path / "data"), [], training.train_epoch

    def measured(*args: object) -> dict[str, float]:
        sizes.append(resident_mib())
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_epoch", measured)
    run = RunSettings(out=tmp_path / "run", workers=2, accelerator="cpu")
    save_model(create_model(peers.tiny_detector(CLASSES)), tmp_path / "tiny.safetensors")
    train(data, tmp_path / "tiny.safetensors", changes={"epochs": 300, **QUICK}, settings=run)
    early, late = sum(sizes[40:60]) / 20, sum(sizes[-20:]) / 20
    print(f"{early:.0f} MiB after 50 epochs, {late:.0f} MiB after 300")
    assert late < early * 1.05
