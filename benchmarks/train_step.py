"""A training step of phidet against effdet's on a CPU: as phidet trains by itself, and with data loading included.

    python benchmarks/train_step.py                                          # lite0 at 320, batch 8
    python benchmarks/train_step.py --model efficientdet-d0 --size 512 --batch 4

Both sides in one process, in turns, on the same images of BCCD (``--data``): forward, targets, loss, backward,
clipping, AdamW, running average. A step alone repeats one batch; with loading, each side reads, augments and collates
with its own loader and one worker process (effdet labels anchors there, as its training script does).

phidet's trainer tells the C library to keep the memory that a step frees (``phidet.core.memory``), which effdet's does
not; so each side's turn starts by setting the allocator as its trainer leaves it, with a step that is not counted.
``--same-memory`` gives both sides phidet's setting: what is left is the difference of the networks and losses.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import effdet
import torch
from effdet.anchors import AnchorLabeler, Anchors
from effdet.data import create_loader
from effdet.data.dataset import DetectionDatset
from effdet.data.parsers import VocParserCfg, create_parser
from lightning_fabric import Fabric
from timm.utils.model_ema import ModelEmaV2

import phidet
from phidet.core.machine import keep_freed_memory
from phidet.data.layouts import open_data
from phidet.training.fit import RunSettings
from phidet.training.learner import prepare_learner
from phidet.training.loading import EpochSampler
from phidet.training.recipe import SMALL, replace
from phidet.training.task import Task

Side = Literal["phidet", "effdet"]
Step = Callable[[Any], None]
CLASSES = ["Platelets", "RBC", "WBC"]
BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
PER_TURN = 3


def phidet_side(name: str, size: int, batch: int, data: Path) -> tuple[Step, Iterator[Any]]:
    """A step, and batches without end."""
    train = open_data(data).read("trainval", CLASSES)
    model = phidet.create_model(name, class_names=CLASSES, image_size=size)
    recipe = replace(SMALL, {"batch_size": batch, "augmentation": {"mosaic": 0.0, "colour": 0.0}})
    fabric = Fabric(accelerator="cpu", devices=1)
    task = Task(model.config, train, None)
    learner = prepare_learner(fabric, model, task, recipe, RunSettings(out=Path()))
    learner.model.train()

    def step(examples: Any) -> None:
        losses = task.losses(fabric, learner.model, examples, recipe)
        fabric.backward(losses["loss"])
        fabric.clip_gradients(learner.model, learner.optimizer, max_norm=recipe.clip_norm)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        learner.average.update(learner.network)

    loader = task.loader(recipe, 0, EpochSampler(len(train), batch, 0), workers=1)
    return step, itertools.chain.from_iterable(itertools.repeat(loader))


def effdet_side(name: str, size: int, batch: int, data: Path) -> tuple[Step, Iterator[Any]]:
    """The same of effdet: its own loader and transforms, labels, loss and average."""
    config = effdet.get_efficientdet_config("tf_" + name.replace("-", "_"))
    config.image_size, config.num_classes = (size, size), len(CLASSES)
    network = effdet.EfficientDet(config, pretrained_backbone=False)
    bench = effdet.DetBenchTrain(network, create_labeler=False).train()
    optimizer = torch.optim.AdamW(bench.parameters(), lr=1e-4)
    average = ModelEmaV2(bench, decay=0.9998)  # type: ignore[no-untyped-call]
    mean, std = (torch.tensor([127.0, 128.0])[i].view(1, 1, 1, 1) for i in range(2))

    def step(examples: Any) -> None:
        images, target = examples
        bench((images.float() - mean) / std, target)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(bench.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(bench)  # type: ignore[no-untyped-call]

    lists = VocParserCfg(
        split_filename=str(data / "ImageSets" / "Main" / "trainval.txt"),
        ann_filename=str(data / "Annotations" / "%s.xml"),
        img_filename="%s.jpg",
        classes=CLASSES,
    )
    images = DetectionDatset(data_dir=data / "JPEGImages", parser=create_parser("voc", cfg=lists))
    labeler = AnchorLabeler(Anchors.from_config(config), len(CLASSES), match_threshold=0.5)
    loader = create_loader(
        images, (size, size), batch, is_training=True, use_prefetcher=False, num_workers=1, anchor_labeler=labeler,
        transform_fn=effdet.data.transforms.transforms_coco_train((size, size), use_prefetcher=True),
    )  # fmt: skip
    full = (
        examples for examples in itertools.chain.from_iterable(itertools.repeat(loader)) if len(examples[0]) == batch
    )
    return step, full


def set_allocator(side: Side, same_memory: bool) -> None:
    """The C library's settings that ``side`` trains with."""
    if side == "phidet" or same_memory:
        keep_freed_memory()
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((-3, 128 << 10), (-1, 128 << 10), (-2, 128 << 10)):  # glibc's defaults
        library.mallopt(parameter, value)
    library.malloc_trim(0)


def main() -> None:
    """Prints medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientdet-lite0")
    parser.add_argument("--size", type=int, default=320, help="input side in pixels (320)")
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--turns", type=int, default=6, help=f"turns of {PER_TURN} steps (6)")
    parser.add_argument("--data", type=Path, default=BCCD, help="BCCD in VOC's layout")
    parser.add_argument("--same-memory", action="store_true", help="both sides with phidet's allocator settings")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    shape = (args.model, args.size, args.batch, args.data)
    sides: dict[Side, tuple[Step, Iterator[Any]]] = {"phidet": phidet_side(*shape), "effdet": effdet_side(*shape)}
    fixed = {side: next(batches) for side, (_, batches) in sides.items()}
    print(
        f"{args.model} at {args.size}, batch {args.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for loading in (False, True):
        times: dict[Side, list[float]] = {"phidet": [], "effdet": []}
        for _ in range(args.turns):
            for side, (step, batches) in sides.items():
                set_allocator(side, args.same_memory)
                for i in range(PER_TURN + 1):
                    start = time.perf_counter()
                    step(next(batches) if loading else fixed[side])
                    if i:  # the first one fetches its memory
                        times[side].append(time.perf_counter() - start)
        medians = {side: statistics.median(values) for side, values in times.items()}
        print(
            f"{'with loading' if loading else 'step alone':12}  "
            + ", ".join(f"{side} {args.batch / medians[side]:.1f} images/s" for side in sides)
            + f": {medians['effdet'] / medians['phidet']:.2f} times the speed"
        )


if __name__ == "__main__":
    main()
