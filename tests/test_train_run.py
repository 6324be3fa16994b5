"""A whole run: what it reads, leaves and survives."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import peers
from conftest import slowly
from doctor_data import broken_yolo
from interrupted import interrupted_after, same_weights
from phidet import create_model, load_model, save_model, train
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.registry import architecture_named, published_config
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, InputError, TrainingDivergedError
from phidet.core.structs import replace
from phidet.data.hold_out import hold_out, validation_data
from phidet.data.layouts import open_data
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.detect_dataset import detect_dataset
from phidet.inference.detector import Detector
from phidet.training import fit as training
from phidet.training import learner as learning
from phidet.training import optim
from phidet.training import recipe as recipes
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.plan import with_antialias
from phidet.training.run import next_folder, resume
from phidet.training.task import Task

pytestmark = pytest.mark.usefixtures("unrendered")
CLASSES = ("bolt", "nut", "washer")
QUICK = {"batch_size": 4, "warmup_epochs": 0.5}


def write_squares(root: Path, count: int = 8, split: str = "train") -> Path:
    """A COCO data set of one bright square an image; its size decides its class."""
    rng = np.random.default_rng(0)
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    images, objects = [], []
    for i in range(count):
        pixels = rng.integers(0, 60, (120, 160, 3), dtype=np.uint8)
        side = (24, 40, 64)[i % 3]
        x, y = int(rng.integers(0, 160 - side)), int(rng.integers(0, 120 - side))
        pixels[y : y + side, x : x + side] = 230
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 160, "height": 120})
        objects.append({"id": i, "image_id": i, "category_id": i % 3 + 1, "bbox": [x, y, side, side]})
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(CLASSES)]
    (root / "annotations").mkdir(exist_ok=True)
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "data")


def save_tiny(path: Path) -> Path:
    """A tiny detector with fresh weights, the same each time."""
    torch.manual_seed(0)
    save_model(create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)})), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that a test starts: sums of several threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(out: Path) -> RunSettings:
    return RunSettings(out=out, workers=0, accelerator="cpu")


def test_a_run_leaves_what_its_documentation_says(data: Path, tiny: Path, tmp_path: Path) -> None:
    write_squares(data, 4, "val")
    done = train(data, tiny, changes={"epochs": 2, **QUICK}, settings=settings(tmp_path / "run"))
    left = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    reported = {f"report/{name}" for name in ("report.json", *TABLES, *(f"{p}.png" for p in PLOTS))}
    always = {
        "best.safetensors",
        "last.safetensors",
        "run.json",
        "images.csv",
        "metrics.csv",
        "metrics.json",
        "curves.png",
    }
    assert {name for name in left if not name.startswith("tensorboard/")} == always | reported | {"state.pt"}

    rows = json.loads((done.folder / "metrics.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert done.metrics["ap"] == pytest.approx(max(row["ap"] for row in rows))
    report = json.loads((done.folder / "report" / "report.json").read_text())
    assert report["coco"]["ap"] == done.metrics["ap"]
    assert report["coco"]["images"] == 4


TABLES = ("classes.csv", "confusion.csv")
PLOTS = ("pr", "sizes", "confusion", "reliability", "mistakes", "samples")


def test_without_a_validation_split_some_images_are_held_out_and_without_enough_it_says_so(
    data: Path, tmp_path: Path
) -> None:
    whole = open_data(data).read("train")
    first, second = hold_out(whole, 0.25, seed=1)
    assert sorted([*first.names, *second.names]) == sorted(whole.names)
    assert (len(first), len(second)) == (6, 2)
    assert list(hold_out(whole, 0.25, seed=1)[1].names) == list(second.names)
    few = open_data(write_squares(tmp_path / "few", 4)).read("train")
    with pytest.raises(InputError, match="4 images and no validation split"):
        hold_out(few, 0.25, seed=0)


def test_run_folders_are_counted(tmp_path: Path) -> None:
    assert next_folder(tmp_path, "a").name == "a-1"
    (tmp_path / "a-1").mkdir()
    assert next_folder(tmp_path, "a").name == "a-2"


def test_python_and_command_line_train_the_same_model(
    data: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tiny, splits=(None, "none"), changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "a"))
    words = ["train", str(data), "--model", str(tiny), "--val-split", "none", "--epochs", "1", "--batch-size", "4"]
    words += ["--set", "warmup_epochs=0.5", "--workers", "0", "--accelerator", "cpu", "--out", str(tmp_path / "b")]
    assert main(words) == 0
    assert str(tmp_path / "b") in capsys.readouterr().out
    one, other = (load_model(tmp_path / run / "best.safetensors").state_dict() for run in ("a", "b"))
    assert peers.same_tensors(one, other)


def test_nested_fields_of_the_recipe_are_set_one_by_one(data: Path, tiny: Path, tmp_path: Path) -> None:
    changes = {"epochs": 1, **QUICK, "augmentation": {"flip": 0.0}, "loss": {"gamma": 2}}
    train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / "run"))
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["augmentation"]["flip"], recipe["augmentation"]["mosaic"]) == (0.0, 0.25)
    assert (recipe["loss"]["gamma"], recipe["loss"]["alpha"]) == (2.0, 0.25)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["train", "DATA", "--set", "learning_rat=1"],
            2,
            "unknown recipe key 'learning_rat'. Did you mean learning_ra",
        ),
        (["train", "DATA", "--set", "epochs"], 2, "--set expects KEY=VALUE"),
        (["train", "DATA", "--epochs", "0"], 2, "epochs must be a whole number ≥ 1"),
        (["train", "DATA", "--devices", "two"], 2, "--devices must be a number or auto"),
        (["train", "DATA", "--recipe", "papers"], 2, "Did you mean paper"),
        (["train", "DATA", "--model", "efficientdet-d9"], 2, "Did you mean efficientdet-d"),
        (["train", "DATA", "--model", "nowhere.safetensors"], 4, "nowhere.safetensors"),
        (["train", "DATA", "--train-split", "tra"], 2, "unknown split"),
        (["train", "nowhere"], 3, "there is no data at nowhere"),
        (["train"], 2, "say what to train on"),
        (["train", "--resume", "nowhere"], 4, "there is no run to resume in nowhere"),
        (["train", "DATA", "--resume", "nowhere"], 4, "there is no run to resume in nowhere"),
        (
            ["train", "--resume", "nowhere", "--epochs", "3"],
            2,
            "own model and recipe: leave out --epochs, or begin another run from",
        ),
        (["train", "--resume", "nowhere", "--pretrained", "coco"], 2, "leave out --pretrained"),
        (["train", "DATA", "--set", "loss=3", "--set", "loss.gamma=2"], 2, "--set loss.gamma and --set loss exclude"),
        (["train", "DATA", "--seed", "-1"], 2, "seed must be a whole number from 0"),
        (["train", "DATA", "--workers", "-1"], 2, "workers must be a whole number ≥ 0"),
        (["train", "DATA", "--set", "patience=0"], 2, "patience must be ≥ 1 or null, got 0"),
        (["train", "DATA", "--task", "classify", "--model", "efficientdet-lite0"], 2, "not for --task classify"),
        (
            ["train", "DATA", "--pretrained", "none", "--image-size", "128", "--batch-size", "1"],
            2,
            "a batch of 1 image at 128×128 leaves batch norms a single value of a channel in the smallest map",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], code: int, said: str, *, data: Path, tiny: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    filled = [str(data) if word == "DATA" else word for word in words]
    if not {"--model", "--pretrained", "--resume"} & {*words}:
        filled += ["--model", str(tiny)]
    out = [] if "--resume" in words else ["--out", str(tmp_path / "run")]
    assert main([*filled, "--accelerator", "cpu", *out]) == code
    raising_write_errors = capsys.readouterr().err
    assert said in raising_write_errors
    assert "Traceback" not in raising_write_errors


def test_eval_measures_a_trained_run_as_python_does(
    data: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(tiny), str(data), "--split", "train", "--json", "--out", str(tmp_path / "report")]) == 0
    said = json.loads(capsys.readouterr().out.partition("\nwrote")[0])
    dataset, found = detect_dataset(Detector(tiny), open_data(data).read("train"), batch_size=3)
    assert said["coco"] == json.loads(msgspec.json.encode(evaluate_coco(dataset, found)))
    assert (tmp_path / "report" / "mistakes.png").is_file()


def run_command(words: list[str], cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "phidet.cli.main", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=cwd, text=True, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "how",
    [signal.SIGTERM, *slowly(signal.SIGINT, signal.SIGKILL)],
)
def test_a_stopped_run_goes_on_to_the_same_weights(
    how: signal.Signals, data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal reaches the whole group, as a terminal, a scheduler and a service manager send it."""
    monkeypatch.chdir(tmp_path)
    base = ["train", str(data), "--model", str(tiny), "--val-split", "none", "--epochs", "4", "--batch-size", "4"]
    base += ["--accelerator", "cpu"]
    assert main([*base, "--workers", "0", "--out", "whole"]) == 0
    stopped = run_command([*base, "--workers", "2", "--out", "stopped"], tmp_path)
    deadline = time.monotonic() + 600
    while not (tmp_path / "stopped" / "state.pt").exists():
        assert time.monotonic() < deadline, "no epoch ended"
        time.sleep(0.01)
    os.killpg(stopped.pid, how)
    _, said = stopped.communicate(timeout=600)
    if how != signal.SIGKILL:
        assert stopped.returncode in (128 + how, 0)  # 0: it was done before the signal came
        assert "Traceback" not in said
        assert "go on with: phidet train --resume stopped" in said or stopped.returncode == 0
    assert main(["train", "--resume", "stopped", "--workers", "0", "--accelerator", "cpu"]) == 0
    assert same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "stopped" / "last.safetensors")
    assert not list((tmp_path / "stopped").rglob("*.part"))


def test_a_log_hears_of_an_epoch_that_lasts(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"epochs": 2, **QUICK}
    with caplog.at_level("INFO", "phidet"):
        train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / "short"))
        assert not [line for line in caplog.messages if "batch 1/" in line]
        monkeypatch.setattr(training, "BETWEEN_LINES", 0.0)
        train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / "long"))
    told = [line for line in caplog.messages if line.startswith("epoch 2/2  batch ")]
    assert [line.split()[3] for line in told] == ["1/2", "2/2"]  # 8 images in batches of 4
    assert told[-1].endswith("0:00 left in it")
    # The mean over the batches so far, which at the end is that of the epoch.
    whole = next(line for line in caplog.messages[::-1] if line.startswith("epoch 2/2  loss "))
    assert told[-1].split()[5] == whole.split()[3]


def test_a_full_disk_ends_the_run_and_the_last_epoch_can_be_resumed(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, written = tmp_path / "run", os.fsync, [0]

    def full(descriptor: int) -> None:
        written[0] += 1
        if written[0] > 9:  # somewhere in the second epoch
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(data, tiny, splits=(None, "none"), changes={"epochs": 3, **QUICK}, settings=settings(out))
    monkeypatch.setattr(os, "fsync", real)
    load_model(out / "last.safetensors")
    assert resume(out, settings(out)).folder == out
    assert len(json.loads((out / "metrics.json").read_text())) == 3


def test_a_runs_folder_may_be_text(tmp_path: Path) -> None:
    assert RunSettings(out="runs/x").out == Path("runs/x")  # type: ignore[arg-type]


def test_a_damaged_description_and_a_taken_folder_are_told(data: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(data, tiny, splits=(None, "none"), changes={"epochs": 1, **QUICK}, settings=settings(out))
    with pytest.raises(ConfigError, match="holds a run already"):
        train(data, tiny, splits=(None, "none"), changes={"epochs": 1, **QUICK}, settings=settings(out))
    for damage in ("{", "{}", '{"recipe": {"name": "small", "epochs": 0}}'):
        (out / "run.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
            resume(out, settings(out))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        train(data, tiny, splits=(None, "none"), settings=settings(tmp_path / "file" / "run"))


def test_a_resumed_run_needs_nothing_but_its_folder_and_its_data(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the model it began with, not the folder where it was begun; and its recipe is its own."""
    monkeypatch.chdir(tmp_path)
    changes = {"epochs": 2, **QUICK, "drop_path": 0.1}
    splits = (None, "none")
    whole = train("data", "tiny.safetensors", splits=splits, changes=changes, settings=settings(tmp_path / "whole"))
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        train("data", "tiny.safetensors", splits=splits, changes=changes, settings=settings(tmp_path / "run"))
    tiny.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(recipes, "SMALL", recipes.PAPER)
    again = train("", settings=msgspec.structs.replace(settings(tmp_path / "run"), resume=True))
    assert peers.same_tensors(whole.model.state_dict(), again.model.state_dict())
    assert again.model.config == whole.model.config
    write_squares(data, 9)
    with pytest.raises(InputError, match="has 9 images for train, the run began with 8: put the data back"):
        resume(tmp_path / "run", settings(tmp_path / "run"))


def test_words_of_a_request_stay_words_beside_files_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("none", "efficientdet-lite0", "data", "run"):
        Path(name).mkdir()
    Path("mine.pth").touch()
    asked = Request(data="data", model="efficientdet-lite0", pretrained="none").with_absolute_paths()
    assert (asked.data, asked.model, asked.pretrained) == (str(tmp_path / "data"), "efficientdet-lite0", "none")
    own = Request(data="data", model="run", pretrained="mine.pth").with_absolute_paths()
    assert (own.model, own.pretrained) == (str(tmp_path / "run"), str(tmp_path / "mine.pth"))


def test_answers_that_are_no_numbers_end_a_run_though_its_weights_are(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_squares(data, 4, "val")
    real = EfficientDet.forward

    def forward(self: EfficientDet, images: torch.Tensor) -> Any:
        found = real(self, images)
        return found if self.training else found._replace(class_logits=found.class_logits * float("nan"))

    monkeypatch.setattr(EfficientDet, "forward", forward)
    with pytest.raises(TrainingDivergedError, match=r"the network returned NaN or infinity.*lower the learning rate"):
        train(data, tiny, changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_run_that_was_stopped_in_its_first_epoch_begins_again(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, splits = {"epochs": 1, **QUICK}, (None, "none")
    whole = train(data, tiny, splits=splits, changes=changes, settings=settings(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "_check_weights", lambda *_: raise_interrupt())
        with pytest.raises(KeyboardInterrupt):
            train(data, tiny, splits=splits, changes=changes, settings=settings(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "images.csv"}
    again = resume(tmp_path / "run", settings(tmp_path / "run"))
    assert peers.same_tensors(whole.model.state_dict(), again.model.state_dict())
    (tmp_path / "run" / "metrics.csv").unlink()  # as if the disk had been full after the state
    (tmp_path / "run" / "curves.png").unlink()
    resume(tmp_path / "run", settings(tmp_path / "run"))
    assert (tmp_path / "run" / "curves.png").is_file()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2
    (tmp_path / "run" / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt is missing"):
        resume(tmp_path / "run", settings(tmp_path / "run"))


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def test_devices_that_are_not_there_are_told(data: Path, tiny: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="cannot train on 'auto' 'cuda' devices"):
        train(data, tiny, settings=RunSettings(out=tmp_path / "run", accelerator="cuda"))


def test_training_goes_on_with_what_forty_broken_files_leave(tiny: Path, tmp_path: Path) -> None:
    """The folder of which doctor names each broken file and label."""
    assert len(broken_yolo(tmp_path / "data")) == 40
    changes = {"epochs": 1, **QUICK}
    done = train(tmp_path / "data", tiny, changes=changes, settings=settings(tmp_path / "run"))
    row = json.loads((done.folder / "metrics.json").read_text())[0]
    assert np.isfinite(row["loss"])
    assert 0 <= row["ap"] <= 1


def test_a_trained_model_learns_other_classes(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = create_model(replace(peers.tiny_detector(("cat",)), {"image_size_hw": (128, 160)}))
    save_model(other, tmp_path / "cat.safetensors")
    done = train(
        data, tmp_path / "cat.safetensors", splits=(None, "none"), changes={"epochs": 1, **QUICK},
        settings=settings(tmp_path / "run"),
    )  # fmt: skip
    assert done.model.config.class_names == CLASSES


def test_a_network_is_used_with_the_resizing_that_it_was_trained_with(data: Path, tiny: Path, tmp_path: Path) -> None:
    def antialias(run: str) -> tuple[bool, bool | None]:
        recipe = json.loads((tmp_path / run / "run.json").read_text())["recipe"]
        config = load_model(tmp_path / run / "last.safetensors").config
        return config.preprocess.antialias, recipe["augmentation"]["antialias"]

    def go(model: Path, run: str, **augmentation: bool) -> None:
        changes = {"epochs": 1, **QUICK, "augmentation": augmentation}
        train(data, model, splits=(None, "none"), changes=changes, settings=settings(tmp_path / run))

    go(tiny, "plain")
    assert antialias("plain") == (False, None)
    go(tiny, "first", antialias=True)
    assert antialias("first") == (True, True)
    # What is learned from it goes on so, unless something else is asked for.
    go(tmp_path / "first" / "last.safetensors", "second")
    assert antialias("second") == (True, True)
    go(tmp_path / "first" / "last.safetensors", "third", antialias=False)
    assert antialias("third") == (False, False)
    with pytest.raises(ConfigError, match="detr-r50 prepares images in one way only"):
        with_antialias(architecture_named("detr"), published_config("detr-r50"), True)


def test_the_rate_of_every_part_is_its_own() -> None:
    torch.manual_seed(0)
    model = create_model(peers.tiny_detector(CLASSES))
    recipe = training.Recipe(name="x", epochs=1, backbone_rate=0.25)
    optimizer = optim.build_optimizer(model, recipe, torch.device("cpu"))
    optim.set_rate(optimizer, 0.8)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.2 if name.startswith("backbone.") else 0.8)


def test_frozen_parts_stay_as_they_are(data: Path, tiny: Path, tmp_path: Path) -> None:
    start = load_model(tiny)
    for freeze, still in (("early", "backbone.stem."), ("backbone", "backbone.")):
        changes = {"epochs": 1, **QUICK, "freeze": freeze}
        done = train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / freeze))
        changed = {
            name
            for name, tensor in done.model.state_dict().items()
            if tensor.is_floating_point() and not torch.equal(tensor, start.state_dict()[name])
        }
        assert not [name for name in changed if name.startswith(still)]
        assert "box_head.predict.pointwise.weight" in changed
        assert any(name.startswith("backbone.") for name in changed) == (freeze == "early")


def test_what_is_frozen_is_what_runs_on_several_gpus(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's SyncBatchNorm takes the place of a batch norm; a ResNet's first one is itself a frozen part."""

    class Two:
        world_size, device = 2, torch.device("cpu")

        def setup(self, model: object, optimizer: object) -> tuple[object, object]:
            return model, optimizer

    config = replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)})
    model = create_model(replace(config, {"backbone": BackboneConfig(architecture="resnet18", width=0.25)}))
    recipe = recipes.replace(recipes.SMALL, {"freeze": "early"})
    monkeypatch.setattr(
        learning, "share_batch_norms", lambda model, _: torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    )
    task = Task(model.config, open_data(data).read("train"), None)
    learner = learning.prepare_learner(Two(), model, task, recipe, settings(tmp_path / "run"))  # type: ignore[arg-type]
    running = set(model.modules())
    assert isinstance(model.backbone.bn1, torch.nn.SyncBatchNorm)  # type: ignore[union-attr]
    assert all(part in running for part in learner.frozen)


def first_loss(data: Path, tiny: Path, out: Path, changes: dict[str, object], **how: bool) -> float:
    run = msgspec.structs.replace(settings(out), **how)
    train(data, tiny, splits=(None, "none"), changes={"epochs": 1, **QUICK, **changes}, settings=run)
    loss: float = json.loads((out / "metrics.json").read_text())[0]["loss"]
    return loss


def test_other_ways_to_compute_the_same_loss(data: Path, tiny: Path, tmp_path: Path) -> None:
    plain = first_loss(data, tiny, tmp_path / "plain", {})
    assert first_loss(data, tiny, tmp_path / "saving", {}, save_memory=True) == pytest.approx(plain, rel=1e-5)
    halves = first_loss(data, tiny, tmp_path / "bf16", {"precision": "bf16-mixed"})
    assert halves != plain
    assert halves == pytest.approx(plain, rel=0.02)


def test_training_stops_where_nothing_gets_better(
    data: Path, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a rate that changes nothing, the first evaluation stays the best."""
    write_squares(data, 4, "val")
    changes = {"epochs": 9, **QUICK, "learning_rate": 1e-12, "patience": 2}
    with caplog.at_level("INFO", "phidet"):
        done = train(data, tiny, changes=changes, settings=settings(tmp_path / "run"))
    assert len(json.loads((done.folder / "metrics.json").read_text())) == 3
    assert "no better AP for 2 evaluations: stopped" in caplog.text
    resume(done.folder, settings(done.folder))
    assert len(json.loads((done.folder / "metrics.json").read_text())) == 3, "going on changes nothing"


def test_a_run_that_diverged_says_so(data: Path, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for rate, worse in ((2e-3, False), (3.0, True)):
        caplog.clear()
        changes = {"epochs": 3, **QUICK, "learning_rate": rate}
        train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / f"run-{rate}"))
        first, *_, last = json.loads((tmp_path / f"run-{rate}" / "metrics.json").read_text())
        assert (last["loss"] > 2 * first["loss"]) == worse
        assert ("the run diverged; lower the learning rate" in caplog.text) == worse


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding, which two steps of so small a network blow up; and its file is any other's."""
    # PyTorch's folder is one for all: half a library there, of a process that was killed, fails every later run.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled-parts"))
    plain = first_loss(data, tiny, tmp_path / "plain", {})
    assert first_loss(data, tiny, tmp_path / "compiled", {}, compile=True) == pytest.approx(plain, rel=1e-4)
    weights, compiled = (load_model(tmp_path / name / "last.safetensors") for name in ("plain", "compiled"))
    for name, value in weights.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=0.05, atol=0.01)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("elsewhere", [False, *slowly(True)])
def test_the_same_seed_gives_the_same_fresh_weights(elsewhere: bool, data: Path, tmp_path: Path) -> None:
    """After much has been drawn, or in another process, from a published name: nothing but the seed can do it."""
    words = ["train", str(data), "--image-size", "128", "--workers", "0", "--accelerator", "cpu", "--epochs", "1"]
    words += ["--pretrained", "none", "--val-split", "none", "--batch-size", "4"]
    if elsewhere:
        with run_command([*words, "--seed", "3", "--out", "a"], tmp_path) as process:
            assert process.wait(200) == 0, process.communicate()
    else:
        assert main([*words, "--seed", "3", "--out", str(tmp_path / "a")]) == 0
    for name, seed in (("b", "3"), ("c", "4")):
        assert main([*words, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    found, again, other = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("a", "b", "c"))
    assert found == again
    assert found != other


def test_a_run_is_measured_on_what_it_held_out(
    data: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = train(data, tiny, changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run"))
    held_out = json.loads((done.folder / "report" / "report.json").read_text())
    assert held_out["split"] == "train, held out"
    for split in ([], ["--split", "val"]):
        assert main(["eval", str(done.folder), str(data), "--json", *split]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["split"], found["coco"]) == (held_out["split"], held_out["coco"])
    assert main(["eval", str(done.folder), str(data), "--split", "train"]) == 0
    assert "was trained on 7 of these 8 images, so the metrics say little about others" in caplog.text
    capsys.readouterr()
    assert main(["eval", str(done.folder / "best.safetensors"), str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coco"] == held_out["coco"]
    with pytest.MonkeyPatch.context() as patch:  # the folder is the run's, the model is another
        patch.chdir(done.folder)
        assert validation_data("person", open_data(data), ("bolt",)).split == "train"


def test_without_objects_there_is_nothing_to_learn_or_to_measure(
    data: Path, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = write_squares(data, 2, "val") / "annotations" / "instances_val.json"
    empty.write_text(json.dumps(json.loads(empty.read_text()) | {"annotations": []}))
    changes = {"epochs": 2, "patience": 1, **QUICK}
    done = train(data, tiny, changes=changes, settings=settings(tmp_path / "run"))
    assert done.metrics == {}
    assert "the split val has no objects" in caplog.text
    assert len(json.loads((done.folder / "metrics.json").read_text())) == 2, "and patience is not lost over it"
    with pytest.raises(InputError, match=r"no image of 'val' has an object, so there is nothing to learn"):
        train(data, tiny, splits=("val", "none"), settings=settings(tmp_path / "other"))


def test_gradients_of_several_steps_are_one_update(data: Path, tiny: Path, tmp_path: Path) -> None:
    """With ``accumulate`` 2, two steps make one update."""
    changes = {"epochs": 1, **QUICK, "warmup_epochs": 0.0, "optimizer": "sgd", "learning_rate": 1.0}
    updates = []
    original = optim.RunningAverage.update

    def counted(self: optim.RunningAverage, model: torch.nn.Module) -> None:
        updates.append(1)
        original(self, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.RunningAverage, "update", counted)
        one = train(
            data, tiny, splits=(None, "none"), changes=changes | {"accumulate": 2}, settings=settings(tmp_path / "one")
        )
    assert len(updates) == 1
    assert json.loads((one.folder / "run.json").read_text())["recipe"]["accumulate"] == 2
