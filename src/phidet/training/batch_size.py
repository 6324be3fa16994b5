"""The batch that a GPU's memory allows: ``--batch-size auto``."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from phidet.architectures.model import Model
from phidet.core.errors import ConfigError
from phidet.training.base import TrainingTask
from phidet.training.fit import RunSettings, start_engine
from phidet.training.learner import Moment, OneNetwork
from phidet.training.recipe import Recipe, replace

LARGEST = 64
"""The batch that learning rates are given for; a larger one would leave the range that they were chosen in."""
STEPS = 16
"""Fewest steps in an epoch: a small data set must not become a handful of updates."""
SHARE = 0.9
"""Of the GPU's memory that may be used: batches differ in their objects, and evaluation needs some, too."""
log = logging.getLogger("phidet")


def largest_batch(wanted: int, num_images: int, fits: Callable[[int], bool]) -> tuple[int, int]:
    """Images at a time, and how many times before an update.

    Args:
        wanted: the recipe's batch. Where it fits it is doubled while that fits, too, up to :data:`LARGEST` and as long
            as an epoch has :data:`STEPS` steps. Where it does not, it is halved, and as many gradients are summed as
            keep the images of an update.
        num_images: in an epoch.
        fits: whether a step with so many images fits into memory; called with growing or with falling numbers.

    Raises:
        ConfigError: not even one image fits.
    """
    batch = wanted
    if fits(batch):
        while 2 * batch <= min(LARGEST, num_images // STEPS) and fits(2 * batch):
            batch *= 2
        return batch, 1
    while batch > 1:
        batch = (batch + 1) // 2
        if fits(batch):
            return batch, -(-wanted // batch)
    raise ConfigError(
        "not even one image fits into the GPU's memory: take a smaller model or --image-size, --save-memory, or "
        "--precision bf16-mixed"
    )


def with_fitting_batch(model: Model, task: TrainingTask, recipe: Recipe, settings: RunSettings) -> Recipe:
    """``recipe`` with the batch that fits, by steps of a copy of ``model``; as it is where there is no GPU.

    Raises:
        ConfigError: several processes, a network that does not learn by one loss, or nothing fits.
    """
    fabric = start_engine(recipe, settings)
    if fabric.world_size > 1:
        raise ConfigError("--batch-size auto is for one GPU: say the number of images over all of them")
    memory = memory_of(fabric.device)
    if memory is None:
        log.info("--batch-size auto is for GPUs: batch %d, the recipe's", recipe.batch_size)
        return recipe

    def fits(batch: int) -> bool:
        memory.clear()
        try:
            _try_steps(fabric, copy.deepcopy(model), task, replace(recipe, {"batch_size": batch}), settings)
        except torch.cuda.OutOfMemoryError:
            return False
        return memory.peak() <= SHARE * memory.total()

    batch, times = largest_batch(recipe.batch_size, task.num_images, fits)
    memory.clear()
    log.info("batch %d fits into the GPU's memory%s", batch, "" if times == 1 else f": {times} of them for an update")
    return replace(recipe, {"batch_size": batch, "accumulate": recipe.accumulate * times})


def _try_steps(fabric: Fabric, model: Model, task: TrainingTask, recipe: Recipe, settings: RunSettings) -> None:
    """Two steps: the second one has the optimizer's state as well, which the first one allocates at its end."""
    learner = task.learner(fabric, model, recipe, settings)
    if not isinstance(learner, OneNetwork):
        raise ConfigError(f"--batch-size auto is not for {model.config.name}: say a number of images")
    examples = next(iter(task.loader(recipe, settings.seed, task.sampler(recipe, settings.seed, 0, 1), 0)))
    learner.train()
    for step in range(2):
        learner.step(examples, Moment(0, step, 2))


class GpuMemory:
    """What is used of a GPU's memory by this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def total(self) -> int:
        """Bytes that there are."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def clear(self) -> None:
        """Gives back what nobody uses, and measures anew."""
        # What a step that ran out of memory had allocated hangs in cycles of its traceback.
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Most bytes that tensors had since :meth:`clear`."""
        return torch.cuda.max_memory_allocated(self.device)


def memory_of(device: torch.device) -> GpuMemory | None:
    """Of a GPU; ``None`` for other devices."""
    return GpuMemory(device) if device.type == "cuda" else None
