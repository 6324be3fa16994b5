"""Augmentations of the user's own: checked, seeded, in every process, and known to a run by name alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

import own_augmentations
import peers
from interrupted import interrupted_after
from phidet import create_model, save_model, train
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.core.structs import replace
from phidet.data.layouts import open_data
from phidet.training.augmentation.operations import Sample
from phidet.training.augmentation.own import LabelledImage, OwnAugmentation, imported, named
from phidet.training.augmentation.sheet import change_augmentation
from phidet.training.fit import RunSettings
from phidet.training.loading import EpochSampler, TrainImages, train_loader
from phidet.training.recipe import Augmentation
from phidet.weights.mapping import weights_of
from test_train_run import CLASSES, write_squares

pytestmark = pytest.mark.usefixtures("unrendered")
LIMIT = (64, 80)
NAME = "own_augmentations:turned_over"


def sample(masks: bool = True) -> Sample:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 60, 70), np.uint8))
    boxes = torch.tensor([[2.0, 3, 20, 30], [40, 10, 70, 60]])
    seen = torch.zeros(2, 60, 70, dtype=torch.uint8)
    seen[0, 3:30, 2:20], seen[1] = 1, 255
    return Sample(pixels, boxes, torch.tensor([2, 0]), seen if masks else None)


def changed(function: Callable[..., Any], given: Sample | None = None, limit_hw: tuple[int, int] = LIMIT) -> Sample:
    return OwnAugmentation(function, "mod:fn")(given or sample(), limit_hw, 3, np.random.default_rng(1))


def test_the_function_gets_and_gives_back_what_the_network_sees() -> None:
    before = sample()
    after = changed(own_augmentations.same, before)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    over = changed(own_augmentations.turned_over, before)
    assert over.boxes_xyxy.tolist() == [[2, 30, 20, 57], [40, 0, 70, 50]]
    assert over.masks is not None
    assert torch.equal(over.masks, before.masks.flip(1))  # type: ignore[union-attr]
    assert (over.pixels.int() - before.pixels.flip(1).int()).min() >= 0
    assert changed(own_augmentations.same, sample(masks=False)).masks is None


def test_what_it_writes_to_is_its_own() -> None:
    before = sample()
    kept = [t.clone() for t in before]

    def wild(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
        labelled.image[:] = 0
        labelled.boxes_xyxy[:] = 1
        return labelled._replace(boxes_xyxy=np.float32([[0, 0, 9, 9]] * 2))

    assert changed(wild, before).pixels.max() == 0
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))


def test_boxes_of_less_than_a_pixel_are_left_out() -> None:
    def tiny(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
        return labelled._replace(boxes_xyxy=np.float32([[1, 1, 1.5, 9], [1, 1, 9, 9]]))

    after = changed(tiny)
    assert after.class_ids.tolist() == [0]
    assert after.masks is not None
    assert len(after.masks) == 1


def field(**changes: Any) -> Callable[[LabelledImage, Any], LabelledImage]:
    return lambda labelled, rng: labelled._replace(**changes)


BOXES = np.float32([[0, 0, 9, 9], [1, 1, 9, 9]])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda labelled, rng: None, "a NoneType, expected a LabelledImage"),
        (lambda labelled, rng: labelled.image, "a ndarray, expected a LabelledImage"),
        (field(image=np.zeros((9, 9, 3), np.float32)), r"shape \(9, 9, 3\) and float32, expected \(H, W, 3\) uint8"),
        (field(image=np.zeros((3, 9, 9), np.uint8)), r"shape \(3, 9, 9\)"),
        (field(image=torch.zeros(9, 9, 3)), "an image as a Tensor, expected an array"),
        (field(image=np.zeros((65, 70, 3), np.uint8)), "70×65, larger than the network's input, 80×64: cut it"),
        (field(class_ids=np.array([0, 3])), "class ids 0…3, expected 0…2"),
        (field(class_ids=np.array([-1, 0])), "class ids -1…0"),
        (field(class_ids=np.array([0.0, 1.0])), "class ids of shape .* float64, expected .* whole numbers"),
        (field(boxes_xyxy=BOXES[:1]), r"boxes of shape \(1, 4\) and float32, expected \(2, 4\)"),
        (field(boxes_xyxy=BOXES.astype(np.int64)), "int64"),
        (field(boxes_xyxy=BOXES * np.float32("nan")), "not finite"),
        (field(boxes_xyxy=BOXES - 1), r"the box \(-1, -1, 8, 8\) outside of its image of 70×60: cut boxes"),
        (field(boxes_xyxy=BOXES[:, [2, 1, 0, 3]]), "x1 ≤ x2"),
        (field(masks=None), "no masks, unlike what it was given"),
        (field(masks=np.zeros((2, 60, 71), np.uint8)), r"masks that are not \(2, 60, 70\) uint8"),
        (field(masks=np.full((2, 60, 70), 7, np.uint8)), "other values than 0, 1 and 255"),
    ],
)
def test_what_is_no_labelled_image_is_told(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^the augmentation mod:fn returned .*{said}"):
        changed(function)


def test_what_the_function_raises_is_told_in_one_line() -> None:
    def bad(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
        raise KeyError("lamp")

    with pytest.raises(
        ConfigError, match=r"^the augmentation mod:fn failed \(\w+\.py, line \d+\): KeyError: 'lamp'$"
    ) as told:
        changed(bad)
    # The line is the function's own, also where a library raises what is wrong with it.
    assert f"({Path(__file__).name}, line {bad.__code__.co_firstlineno + 1})" in str(told.value)
    with pytest.raises(ConfigError, match=rf"{Path(__file__).name}, line \d+\): .*could not be broadcast"):
        changed(lambda labelled, rng: labelled._replace(image=np.add(labelled.image, np.zeros(7))))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("turned_over", "expected an augmentation as MODULE:FUNCTION"),
        ("no.such:thing", "cannot be imported: No module named 'no'"),
        ("own_augmentations:nothing", "cannot be found: .*nothing"),
        ("own_augmentations:not_a_function", "is no function, but a int"),
    ],
)
def test_names_that_mean_no_function(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        imported(name)


def test_names_are_those_that_import_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(own_augmentations.turned_over).name == NAME
    assert imported(NAME).function is own_augmentations.turned_over
    assert named(own_augmentations.shifted).name == "own_augmentations:Shifted"
    assert imported("own_augmentations:shifted").function is own_augmentations.shifted
    with pytest.raises(ConfigError, match="augment must be a function"):
        named(3)  # type: ignore[arg-type]
    # A module of the current folder is found, as for python -m.
    (tmp_path / "my_own_lamp.py").write_text("def lamp(labelled, rng):\n    return labelled\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    assert imported("my_own_lamp:lamp").name == "my_own_lamp:lamp"


def loaded(images: TrainImages, workers: int) -> list[Tensor]:
    sampler = EpochSampler(len(images.dataset), 4, seed=3)
    return [tensor for batch in train_loader(images, sampler, workers) for tensor in batch if tensor is not None]


def test_chance_is_the_runs_in_every_process(tmp_path: Path) -> None:
    dataset = open_data(write_squares(tmp_path)).read("train")
    images = TrainImages(dataset, (96, 96), Augmentation(mosaic=0.3), 3)
    plain = loaded(images, 0)
    images.own = imported(NAME)
    here, there = loaded(images, 0), loaded(images, 2)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(here, plain, strict=True))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(
        create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 128)})), tmp_path / "t.safetensors"
    )
    return tmp_path / "t.safetensors"


CHANGES = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0.5}


def test_a_run_knows_its_augmentation_and_goes_on_with_it_to_the_last_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_squares(tmp_path / "data")

    def run(name: str, **more: Any) -> Any:
        settings = RunSettings(out=tmp_path / name, workers=0, accelerator="cpu")
        return train(data, tiny, splits=(None, "none"), changes=CHANGES, settings=settings, **more)

    whole = run("whole", augment=own_augmentations.turned_over)
    about = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert about["recipe"]["augmentation"]["function"] == NAME
    mine = weights_of(whole.model)

    # Interrupted in its second epoch.
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        run("stopped", augment=NAME)
    again = RunSettings(out=tmp_path / "stopped", workers=0, accelerator="cpu", resume=True)
    with pytest.raises(ConfigError, match=f"begun with the augmentation {NAME}: name it again, --augment {NAME}"):
        train(data, settings=again)
    with pytest.raises(ConfigError, match="got own_augmentations:same"):
        train(data, settings=again, augment=own_augmentations.same)
    about["recipe"]["augmentation"]["function"] = None
    (tmp_path / "whole" / "run.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="has no augmentation of its own"):
        train(data, settings=msgspec.structs.replace(again, out=tmp_path / "whole"), augment=NAME)
    resumed = weights_of(train(data, settings=again, augment=NAME).model)
    assert all(torch.equal(resumed[name], mine[name]) for name in mine)


def test_a_mistake_in_another_process_is_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_squares(tmp_path / "data")
    words = ["train", str(data), "--model", str(tiny), "--val-split", "none", "--epochs", "1", "--batch-size", "4"]
    words += ["--accelerator", "cpu", "--workers", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--augment", "own_augmentations:fails_elsewhere"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("phidet:")]
    where = "own_augmentations:fails_elsewhere failed (own_augmentations.py, line 44)"
    assert said[-1] == f"phidet: the augmentation {where}: RuntimeError: no lamp"
    assert main([*words, "--task", "generate", "--augment", NAME]) == 2


def test_no_file_of_options_names_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.toml").write_text(f'augment = "{NAME}"\n')
    assert main(["train", "data", "--config", str(tmp_path / "options.toml")]) == 2
    assert "augment" in capsys.readouterr().err
    (tmp_path / "options.toml").write_text(f'set = ["augmentation.function={NAME}"]\n')
    assert main(["train", "data", "--model", "efficientdet-lite0", "--config", str(tmp_path / "options.toml")]) == 2
    assert "not with --set" in capsys.readouterr().err


def test_doctor_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_squares(tmp_path / "data")
    assert change_augmentation(Augmentation(), [NAME, "flip=0"]) == Augmentation(function=NAME, flip=0)
    out = tmp_path / "look"
    words = ["doctor", str(data), "--augmented", "--out", str(out)]
    assert main(words) == 0
    plain = (out / "augmented.png").read_bytes()
    assert main([*words, "--augment", NAME]) == 0
    assert NAME in capsys.readouterr().err
    assert (out / "augmented.png").read_bytes() != plain
    capsys.readouterr()
    assert main([*words, "--augment", "no.such:thing"]) == 2
    assert not capsys.readouterr().out, "said before the report, which may take minutes"
    assert main([*words, "--augment", "own_augmentations"]) == 2
    assert "MODULE:FUNCTION, got 'own_augmentations'" in capsys.readouterr().err
