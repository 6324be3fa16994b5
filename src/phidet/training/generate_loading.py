"""Batches of images for a generator: objects cut out of their images, in a schedule of images shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from phidet.architectures.adversarial import Adversarial
from phidet.core.errors import ConfigError
from phidet.data.crops import Crop, cut_out, read_crops, window_of
from phidet.data.dataset import Dataset
from phidet.training.loading import EpochSampler
from phidet.training.recipe import Recipe

log = logging.getLogger("phidet")
_KEPT = 2**30  # bytes: so many of decoded crops are kept in memory


class ShownImages(EpochSampler):
    """Batches of (pass, index) in an endless row of passes over the crops, each in an order of its own.

    An epoch is a number of images shown, not a pass: the schedule of a generator counts them, and sets the batch.

    Args:
        num_crops: in the data.
        adversary: whose schedule it is.
        recipe: batch and rate.
        seed: of the order.
        processes: rank of this process, and number of processes.
        repeats: as of :class:`EpochSampler`.
    """

    def __init__(
        self,
        num_crops: int,
        adversary: Adversarial,
        recipe: Recipe,
        seed: int,
        processes: tuple[int, int] = (0, 1),
        repeats: npt.NDArray[np.float64] | None = None,
    ) -> None:
        # The order of one process: every process walks through all of it, and takes its part of each batch.
        super().__init__(num_crops, 1, seed, 0, 1, repeats)
        self.adversary, self.recipe = adversary, recipe
        self.batch_size = recipe.batch_size
        self.rank, self.world_size = processes
        self._sizes: list[int] = []  # of all epochs so far, one list: where an epoch begins follows from those before
        self._starts = [0]

    def shown_before(self, epoch: int) -> int:
        """Images shown before ``epoch``, counted from 0."""
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + sum(self._batches(self._starts[-1])))
        return self._starts[epoch]

    def _batches(self, shown: int) -> list[int]:
        """Sizes of the batches of the epoch that begins after ``shown`` images."""
        sizes: list[int] = []
        left = self.adversary.epoch_images
        while True:
            size = self.adversary.phase(shown, self.recipe.batch_size, self.recipe.learning_rate).batch_size
            # A batch that would reach beyond the epoch belongs to the next one; every epoch has at least one.
            if sizes and size > left:
                return sizes
            # Discriminators compare the images of a batch in groups of four, which no process shares.
            if size % (4 * self.world_size) and (size > 4 or self.world_size > 1):
                raise ConfigError(
                    f"a batch of {size} images cannot be shared by {self.world_size} processes in groups of four: "
                    f"choose a multiple of {4 * self.world_size}"
                )
            sizes.append(size)
            shown, left = shown + size, left - size

    def __len__(self) -> int:
        return len(self._batches(self.shown_before(self.epoch)))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shown = self.shown_before(self.epoch)
        orders: dict[int, npt.NDArray[np.int64]] = {}
        for size in self._batches(shown):
            keys = []
            for position in range(shown, shown + size):
                number, within = divmod(position, self.num_images)
                if number not in orders:
                    orders[number] = self.order(number)
                keys.append((number, int(orders[number][within])))
            shown += size
            yield keys[self.rank :: self.world_size]


class TrainCrops(TorchDataset[tuple[Tensor, int]]):
    """Crops (3, size, size) uint8 and their classes; mirrored by chance of seed, pass and index alone.

    Args:
        dataset: the images.
        crops: its objects.
        size: side of the crops in pixels.
        context: see :func:`phidet.data.crops.window_of`.
        flip: probability of a mirrored crop.
        seed: of the flips.
    """

    def __init__(self, dataset: Dataset, crops: list[Crop], size: int, context: float, flip: float, seed: int) -> None:
        self.dataset, self.crops, self.size, self.context = dataset, crops, size, context
        self.flip, self.seed = flip, seed
        kept = len(crops) * 3 * size * size <= _KEPT
        self.pixels = read_crops(dataset, crops, size, context) if kept else None

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        number, index = key
        crop = self._read(index) if self.pixels is None else self.pixels[index]
        if np.random.default_rng((self.seed, number, index)).random() < self.flip:
            crop = crop[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))), self.crops[index].class_id

    def _read(self, index: int) -> npt.NDArray[np.uint8]:
        crop = self.crops[index]
        image = self.dataset.image(crop.image)
        return cut_out(image, window_of(crop.box_xyxy, (image.shape[0], image.shape[1]), self.context), self.size)
