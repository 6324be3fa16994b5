"""What each of several processes does in the tests of training on several devices; started with torchrun.

torchrun --nproc-per-node 2 tests/processes.py gradients detr generate evaluate classify OUT

The data of a work lie in a folder of its name in OUT, and what came out is there in ``found.pt``. Starting a process
takes longer than what it does, so each does several works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from lightning_fabric import Fabric

import peers
import test_classify
from phidet import create_model
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.registry import architecture_of
from phidet.architectures.stylegan.published import stylegan_config
from phidet.core.structs import replace
from phidet.data.class_folders import open_class_folders
from phidet.data.layouts import open_data
from phidet.evaluation.classification_report import answers_of
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.training.evaluate import detect
from phidet.training.fit import RunSettings, start_engine
from phidet.training.generate_task import GenerateTask
from phidet.training.learner import Moment, prepare_learner
from phidet.training.loading import EpochSampler
from phidet.training.recipe import SMALL, recipe_named
from phidet.training.recipe import replace as change
from phidet.training.task import Task

CLASSES = ("bolt", "nut", "washer")
BATCH = 4


def model() -> EfficientDet:
    """The same weights in every process; scores spread out, so that there is something to suppress."""
    torch.manual_seed(0)
    network = create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)}))
    torch.nn.init.normal_(network.class_head.predict.pointwise.weight, std=0.5)
    return network


def gradients(data: Path, processes: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients of the first batch, and the batch norms' statistics after it, in 64 bits."""
    recipe = change(SMALL, {"batch_size": BATCH, "augmentation": {"mosaic": 0.0, "colour": 0.0}})
    train = open_data(data).read("train")
    settings = RunSettings(out=data, accelerator="cpu", devices="auto", workers=0)
    fabric = Fabric(accelerator="cpu", devices=processes, precision="64-true")
    fabric.launch()
    network = model()
    task = Task(network.config, train, None)
    learner = prepare_learner(fabric, network, task, recipe, settings)
    learner.model.train()
    sampler = EpochSampler(len(train), BATCH, 0, fabric.global_rank, fabric.world_size)
    batch = next(iter(task.loader(recipe, 0, sampler, 0)))
    fabric.backward(task.losses(fabric, learner.model, batch, recipe)["loss"])
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    statistics = {name: b for name, b in network.named_buffers() if name.endswith(("mean", "var"))}
    return found, statistics


def detr_gradients(data: Path, processes: int) -> dict[str, torch.Tensor]:
    """Gradients of a DETR on the first batch, whose images differ in size, in 64 bits; without dropout."""
    from test_detr_dialects import small  # noqa: PLC0415 - the other works need less

    torch.manual_seed(0)
    config = replace(small(), {"class_names": CLASSES, "image_size_hw": (96, 160)})
    config = replace(config, {"transformer": replace(config.transformer, {"dropout": 0.0})})
    network = create_model(config)
    recipe = change(recipe_named("detr", 8, architecture_of(config)), {"batch_size": BATCH})
    train = open_data(data).read("train")
    fabric = Fabric(accelerator="cpu", devices=processes, precision="64-true")
    fabric.launch()
    task = Task(config, train, None)
    learner = prepare_learner(fabric, network, task, recipe, RunSettings(out=data, accelerator="cpu", workers=0))
    learner.model.train()
    sampler = EpochSampler(len(train), BATCH, 0, fabric.global_rank, fabric.world_size)
    batch = next(iter(task.loader(recipe, 0, sampler, 0)))
    fabric.backward(task.losses(fabric, learner.model, batch, recipe)["loss"])
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def generator_steps(data: Path, processes: int) -> dict[str, torch.Tensor]:
    """How far three augmented steps across two phases have moved the weights of two networks, in 64 bits."""
    torch.set_default_dtype(torch.float64)
    try:
        return _generator_steps(data, processes)
    finally:
        torch.set_default_dtype(torch.float32)


def _generator_steps(data: Path, processes: int) -> dict[str, torch.Tensor]:
    fabric = Fabric(accelerator="cpu", devices=processes)
    fabric.launch()
    loss = {"epoch_images": 24, "batches": "fixed", "phase_images": 8, "first_resolution": 8}
    augmentation = {"adaptive": 0.5, "adaptive_span": 100}
    recipe = change(SMALL, {"batch_size": 8, "loss": loss, "augmentation": augmentation})
    torch.manual_seed(0)
    config = stylegan_config("stylegan-16-small", CLASSES)
    network = create_model(replace(config, {"labelled": True, "class_names": CLASSES, "latent_size": 24}))
    task = GenerateTask(network.config, open_data(data).read("train"))
    run = RunSettings(out=data, workers=0)
    learner = task.learner(fabric, network, recipe, run)
    # Adam divides by the size of the gradient, which would make rounding of the smallest ones as large as the rate.
    learner.optimizers = [torch.optim.SGD(each.parameters(), 0.01) for each in (network, learner.discriminator)]
    assert learner.probability is not None
    learner.probability.value = 0.5
    sampler = task.sampler(recipe, 0, fabric.global_rank, fabric.world_size)
    networks = torch.nn.ModuleList([network, learner.discriminator])
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    for step, batch in enumerate(task.loader(recipe, 0, sampler, 0)):
        learner.step(batch, Moment(0, step, 3))
    moved = {name: tensor - before[name] for name, tensor in networks.state_dict().items()}
    return {**moved, "p": torch.tensor(learner.probability.value)}


def evaluate(data: Path) -> dict[str, Any]:
    """What :func:`model` finds, and the AP."""
    fabric = start_engine(SMALL, RunSettings(out=data, accelerator="cpu"))
    found = detect(model(), open_data(data).read("train"), fabric, batch_size=1, workers=0)
    boxes = [torch.tensor(detections.boxes_xyxy) for detections in found.detections]
    return {"ap": evaluate_coco(*found).ap if fabric.is_global_zero else None, "boxes": boxes}


def classify(data: Path) -> bytes:
    """A classifier's report."""
    fabric = start_engine(SMALL, RunSettings(out=data, accelerator="cpu"))
    answers = detect(test_classify.tiny(), open_class_folders(data).read("all"), fabric, 2, workers=0)
    return msgspec.json.encode(answers_of(*answers).report(answers.dataset))


def main() -> None:
    """Does what the command line says; the first process writes what came out, and every one what it classified."""
    *works, out = sys.argv[1:]
    doing: dict[str, Callable[[Path], Any]] = {
        "gradients": partial(gradients, processes=2),
        "detr": partial(detr_gradients, processes=2),
        "generate": partial(generator_steps, processes=2),
        "evaluate": evaluate,
        "classify": classify,
    }
    for work in works:
        folder = Path(out) / work
        found = doing[work](folder)
        rank = int(torch.distributed.get_rank())
        if work == "classify":
            (folder / f"report-{rank}.json").write_bytes(found)
        elif rank == 0:
            torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main()
