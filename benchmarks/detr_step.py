"""A training step of DETR on a CPU or GPU beside the official code's, or transformers' where that is not at hand.

    git clone https://github.com/facebookresearch/detr ../detr-official
    python benchmarks/detr_step.py --official ../detr-official
    python benchmarks/detr_step.py --size 640 --batch 2 --rounds 5                   # against transformers

Both sides in one process, in turns, on the same images and objects: forward with dropout, matching, the losses of all
layers, backward, clipping to 0.1, AdamW. Medians; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phidet.architectures.batch import Batch
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.published import detr_config
from phidet.architectures.processes import Processes
from phidet.architectures.sets.targets import set_targets
from phidet.core.machine import keep_freed_memory
from phidet.images.prepare import IMAGENET
from phidet.training.loading import normalise
from phidet.training.optim import build_optimizer, frozen_parts
from phidet.training.recipe import recipe_named

CLASSES, OBJECTS = 91, 7
Step = Callable[[], None]


def batch_of(size: int, count: int, device: torch.device) -> Batch:
    """Noise with seven objects in every image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    corners = (torch.rand(count, OBJECTS, 2, 2, generator=generator) * size).sort(2).values
    boxes = torch.cat([corners[:, :, 0], corners[:, :, 1] + 1], -1).clamp(max=size)
    ids = torch.randint(1, CLASSES, (count, OBJECTS), generator=generator)
    return Batch(pixels, torch.tensor([[size, size]] * count), boxes, ids).to(device)


def phidet_side(batch: Batch) -> Step:
    device = batch.pixels.device
    model: Any = DETR.build(detr_config("detr-r50")).to(device).train()
    recipe = recipe_named("detr", 1000, DETR)
    for part in frozen_parts(model, recipe):
        part.requires_grad_(False)
    optimizer = build_optimizer(model, recipe, device)
    loss = DETR.loss(model.config, DETR.loss_settings)

    def step() -> None:
        outputs = model(normalise(batch, model.config.preprocess), batch.valid_hw)
        _update(model, optimizer, loss(outputs, batch, Processes(1, lambda value: value))["loss"])

    return step


def official_side(batch: Batch, checkout: Path) -> Step:
    """The official code's, from a checkout of it."""
    sys.path.insert(0, str(checkout))
    modules: list[Any] = [import_module(name) for name in ("models", "models.backbone", "util.misc")]
    models, backbone, misc = modules
    backbone.is_main_process = lambda: False  # it would download weights
    parser = import_module("main").get_args_parser()
    model, criterion, _ = models.build_model(parser.parse_args(["--device", str(batch.pixels.device)]))
    model.to(batch.pixels.device).train()
    rest = [p for name, p in model.named_parameters() if "backbone" not in name and p.requires_grad]
    inner = [p for name, p in model.named_parameters() if "backbone" in name and p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": inner, "lr": 1e-5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)
    relative = set_targets(batch)
    targets = [
        {"labels": ids, "boxes": boxes} for ids, boxes in zip(relative.class_ids, relative.boxes_cxcywh, strict=True)
    ]

    def step() -> None:
        images = normalise(batch, IMAGENET)
        nothing = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        losses = criterion(model(misc.NestedTensor(images, nothing)), targets)
        total = sum(losses[name] * weight for name, weight in criterion.weight_dict.items() if name in losses)
        _update(model, optimizer, total)

    return step


def transformers_side(batch: Batch) -> Step:
    """Hugging Face's, with the same losses; it freezes what the official code does."""
    transformers = import_module("transformers")
    config = transformers.DetrConfig(num_labels=CLASSES, auxiliary_loss=True, attention_dropout=0.1)
    model = transformers.DetrForObjectDetection(config).to(batch.pixels.device).train()
    for name, parameter in model.named_parameters():
        if name.startswith(("model.backbone.model.conv1", "model.backbone.model.layer1")):
            parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=1e-4)
    relative = set_targets(batch)
    labels = [
        {"class_labels": ids, "boxes": boxes}
        for ids, boxes in zip(relative.class_ids, relative.boxes_cxcywh, strict=True)
    ]

    def step() -> None:
        _update(model, optimizer, model(pixel_values=normalise(batch, IMAGENET), labels=labels).loss)

    return step


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="a checkout of facebookresearch/detr")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        keep_freed_memory()  # for both sides, so that what differs is the code
    batch = batch_of(args.size, args.batch, device)
    peer = "transformers" if args.official is None else "official"
    other = transformers_side(batch) if args.official is None else official_side(batch, args.official)
    steps = {"phidet": phidet_side(batch), peer: other}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first one of each warms up
                taken[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, seconds in medians.items():
        print(f"{name:<14}{seconds * 1e3:8.0f} ms")
    print(f"phidet takes {medians['phidet'] / medians[peer]:.2f} of the time of {peer}, {args.size} pixels, {device}")


if __name__ == "__main__":
    main()
