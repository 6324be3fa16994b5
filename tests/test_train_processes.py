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


def torchrun(count: int, out: Path, *works: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(Path(processes.__file__)), *works, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all that two processes did together, with their data."""
    root, works = tmp_path_factory.mktemp("two"), ("generate", "gradients", "detr")
    for work in works:
        write_squares(root / work)
    # Images that cannot be shared out evenly, one of which is broken.
    write_squares(root / "evaluate", 9)
    test_classify.write_pictures(root / "classify", 4)
    (root / "classify" / "nut" / "broken.png").write_bytes(b"no picture")
    torchrun(2, root, *works, "evaluate", "classify")
    return root


def test_two_processes_train_a_generator_as_one_does(of_two: Path) -> None:
    two = torch.load(of_two / "generate" / "found.pt")
    one = processes.generator_steps(of_two / "generate", processes=1)
    assert one["p"] == two["p"]
    moved = {name: float(tensor.norm()) for name, tensor in one.items() if tensor.norm() > 1e-5}
    assert len(moved) > 40
    for name, distance in moved.items():
        assert float((two[name] - one[name]).norm()) < 1e-9 * distance, name


def test_two_processes_with_half_the_batch_give_the_gradients_of_one(of_two: Path) -> None:
    """Batch norms, loss normaliser and all: half the batch each, and the same step."""
    shared, statistics_shared = torch.load(of_two / "gradients" / "found.pt", weights_only=True)
    alone, statistics = processes.gradients(of_two / "gradients", processes=1)
    assert shared.keys() == alone.keys()
    largest = max(float(gradient.norm()) for gradient in alone.values())
    for name, gradient in alone.items():
        # A bias in front of a batch norm has no gradient but rounding, so the bound needs the largest one, too.
        off = float((gradient - shared[name]).norm())
        assert off <= 1e-9 * float(gradient.norm()) + 1e-12 * largest, name
    for name, statistic in statistics.items():
        torch.testing.assert_close(statistics_shared[name], statistic, rtol=1e-10, atol=1e-12, msg=name)


def test_two_processes_give_a_detr_the_gradients_of_one(of_two: Path) -> None:
    """Normalisers over all processes, and padding to the largest image of all."""
    shared = torch.load(of_two / "detr" / "found.pt", weights_only=True)
    alone = processes.detr_gradients(of_two / "detr", processes=1)
    assert shared.keys() == alone.keys()
    largest = max(float(gradient.norm()) for gradient in alone.values())
    for name, gradient in alone.items():
        # Sines of positions are in fp32 even here, and their last digit depends on how many are computed at once.
        assert float((gradient - shared[name]).norm()) <= 1e-6 * float(gradient.norm()) + 1e-9 * largest, name


def test_two_processes_evaluate_to_what_one_does(of_two: Path) -> None:
    shared = torch.load(of_two / "evaluate" / "found.pt", weights_only=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    found = detect(processes.model(), open_data(of_two / "evaluate").read("train"), fabric, batch_size=1, workers=0)
    assert shared["ap"] == evaluate_coco(*found).ap
    assert len(found.detections) == len(shared["boxes"]) == 9
    assert sum(map(len, found.detections)) > 100
    for one, boxes in zip(found.detections, shared["boxes"], strict=True):
        assert torch.equal(boxes, torch.tensor(one.boxes_xyxy))


def test_two_processes_tell_classes_as_one_does(of_two: Path) -> None:
    """Also where the images cannot be shared out evenly, and one of them is broken."""
    fabric, folder = Fabric(accelerator="cpu", devices=1), of_two / "classify"
    data = open_class_folders(folder).read("all")
    answers = detect(test_classify.tiny(), data, fabric, 2, workers=0)
    alone = msgspec.json.encode(answers_of(*answers).report(answers.dataset))
    reports = sorted(folder.glob("report-*.json"))
    assert len(reports) == 2
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
@pytest.mark.slow
def test_freed_memory_serves_the_next_step() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert first > 10_000  # tens of megabytes, in pages of 4 KiB
    assert sum(others[-6:]) / 6 < first / 20
