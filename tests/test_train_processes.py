"""Several processes, less memory: the same gradients, the same metrics."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from lightning_fabric import Fabric

import processes
import test_classify
from phidet import create_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.feature_networks.network import FusionNode
from phidet.core.structs import replace
from phidet.data.class_folders import open_class_folders
from phidet.data.layouts import open_data
from phidet.evaluation.classification_report import answers_of
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.training.checkpointing import recompute_activations
from phidet.training.evaluate import detect
from test_train_run import write_squares

MEMORY = """
import resource
from phidet.core.machine import keep_freed_memory
import torch
from torch import nn
assert keep_freed_memory()
layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()) for _ in range(5)))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers(torch.randn(8, 16, 160, 160)).square().mean().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(12)))
"""


def torchrun(count: int, work: str, out: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(Path(processes.__file__)), work, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_a_generator_as_one_does(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data")
    torchrun(2, "generate", data)
    two = torch.load(data / "learned.pt")
    one = processes.generator_steps(data, processes=1)
    assert one["p"] == two["p"]
    moved = {name: float(tensor.norm()) for name, tensor in one.items() if tensor.norm() > 1e-5}
    assert len(moved) > 40
    for name, distance in moved.items():
        assert float((two[name] - one[name]).norm()) < 1e-2 * distance, name


def test_two_processes_with_half_the_batch_give_the_gradients_of_one(tmp_path: Path) -> None:
    """Batch norms, loss normaliser and all: half the batch each, and the same step."""
    write_squares(tmp_path)
    torchrun(2, "gradients", tmp_path)
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone, statistics = processes.gradients(tmp_path, processes=1)
    assert shared["gradients"].keys() == alone.keys()
    largest = max(float(gradient.norm()) for gradient in alone.values())
    for name, gradient in alone.items():
        # A bias in front of a batch norm has no gradient but rounding, so the bound needs the largest one, too.
        off = float((gradient - shared["gradients"][name]).norm())
        assert off <= 1e-9 * float(gradient.norm()) + 1e-12 * largest, name
    for name, statistic in statistics.items():
        torch.testing.assert_close(shared["statistics"][name], statistic, rtol=1e-10, atol=1e-12, msg=name)


def test_three_processes_evaluate_to_what_one_does(tmp_path: Path) -> None:
    write_squares(tmp_path, 10)
    torchrun(3, "evaluate", tmp_path)
    shared = torch.load(tmp_path / "evaluate.pt", weights_only=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    found = detect(processes.model(), open_data(tmp_path).read("train"), fabric, batch_size=1, workers=0)
    assert shared["ap"] == evaluate_coco(*found).ap
    assert len(found.detections) == len(shared["boxes"]) == 10
    assert sum(map(len, found.detections)) > 100
    for one, boxes in zip(found.detections, shared["boxes"], strict=True):
        assert torch.equal(boxes, torch.tensor(one.boxes_xyxy))


def test_three_processes_tell_classes_as_one_does(tmp_path: Path) -> None:
    """Also where the images cannot be shared out evenly, and one of them is broken."""
    test_classify.write_pictures(tmp_path, 5)
    (tmp_path / "nut" / "broken.png").write_bytes(b"no picture")
    torchrun(3, "classify", tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1)
    data = open_class_folders(tmp_path).read("all")
    answers = detect(test_classify.tiny(), data, fabric, 2, workers=0)
    alone = msgspec.json.encode(answers_of(*answers).report(answers.dataset))
    reports = sorted(tmp_path.glob("report-*.json"))
    assert len(reports) == 3
    assert {report.read_bytes() for report in reports} == {alone}
    assert b"top1" in alone


@pytest.mark.parametrize("architecture", ["efficientnet-lite", "resnet18", "resnet50", "mobilenet-v2"])
def test_recomputed_activations_give_the_same_gradients_and_count_a_batch_once(architecture: str) -> None:
    config = processes.model().config
    if architecture != config.backbone.architecture:
        width = 0.5 if architecture == "mobilenet-v2" else 0.25
        config = replace(config, {"backbone": BackboneConfig(architecture=architecture, width=width)})  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = create_model(config).train()
    images = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))

    def step(network: EfficientDet) -> dict[str, torch.Tensor]:
        outputs = network(images)
        (outputs.class_logits.square().mean() + outputs.box_deltas.square().mean()).backward()
        found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        return found | {name: b for name, b in network.named_buffers() if name.endswith(("mean", "var"))}

    saving = copy.deepcopy(model)
    nodes = sum(isinstance(module, FusionNode) for module in saving.modules())
    assert recompute_activations(saving) >= nodes + 8, "blocks of the backbone are among them"
    plain, saved = step(model), step(saving)
    assert plain.keys() == saved.keys()
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value, msg=name)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_serves_the_next_step() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert first > 10_000  # tens of megabytes, in pages of 4 KiB
    assert sum(others[-6:]) / 6 < first / 20
