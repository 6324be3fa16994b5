"""Batches for training and evaluation, the same for the same seed however many processes load them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from phidet.architectures.base import Architecture, NetworkConfig
from phidet.architectures.batch import Batch
from phidet.architectures.prepared import Placement, by_shape
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.data.dataset import Dataset
from phidet.detections.fields import NO_FIELDS
from phidet.images.prepare import Preprocess
from phidet.training.augmentation.detection import (
    Example,
    Labelled,
    finish,
    joined,
    needed_hw,
    pad_masks,
    pad_to,
    padded_hw,
    turned,
    windowed,
)
from phidet.training.augmentation.mask_tensors import shrunk, with_masks
from phidet.training.augmentation.mixing import mixed, paste_objects
from phidet.training.augmentation.operations import Sample
from phidet.training.augmentation.own import OwnAugmentation
from phidet.training.image_cache import ImageCache
from phidet.training.loading_process import ends_with_parent
from phidet.training.recipe import Augmentation

log = logging.getLogger("phidet")

T = TypeVar("T")


class EvalPart(NamedTuple):
    """Images of one size.

    Attributes:
        inputs: of the network: images (B, 3, H, W) float32, normalised, and what it takes beside them.
        placements: where each image lies in the input.
        indices: of the images in the data set.
    """

    inputs: tuple[Tensor, ...]
    placements: list[Placement]
    indices: list[int]


class EvalBatch(NamedTuple):
    """Images for evaluation.

    Attributes:
        parts: one, unless the network's input varies in size.
        broken: indices of images that could not be decoded, and why; they are not among the others.
    """

    parts: list[EvalPart]
    broken: list[tuple[int, str]]


def collate(examples: list[Example]) -> Batch:
    """Examples as a batch, padded right and below to the largest of them."""
    boxes, class_ids = pad_objects([e.boxes_xyxy for e in examples], [e.class_ids for e in examples])
    valid = torch.tensor([e.valid_hw for e in examples])
    given = [e.soft for e in examples if e.soft is not None]
    soft = pad_sequence(given, batch_first=True) if given else None
    seen = [e.masks for e in examples if e.masks is not None]
    masks = pad_sequence([pad_masks(m, _largest(seen)) for m in seen], batch_first=True) if seen else None
    pixels = [e.pixels for e in examples]
    pixels = [pad_to(p, _largest(pixels)) for p in pixels]
    return Batch(torch.stack(pixels), valid, boxes, class_ids, soft, masks)


def _largest(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width that all (…, h, w) fit into."""
    return max(t.shape[-2] for t in tensors), max(t.shape[-1] for t in tensors)


def normalise(batch: Batch, spec: Preprocess) -> Tensor:
    """The network's input, (B, 3, H, W) float32, on the batch's device; padding is 0."""
    mean, std = (batch.pixels.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (spec.mean_rgb, spec.std_rgb))
    images = (batch.pixels - mean) / std
    # Padding must be 0 after normalisation, as in deployment; before it, 0 would mean black.
    rows = torch.arange(images.shape[2], device=images.device)[None, :] < batch.valid_hw[:, :1]
    columns = torch.arange(images.shape[3], device=images.device)[None, :] < batch.valid_hw[:, 1:]
    return images * (rows[:, None, :, None] & columns[:, None, None, :])


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): every image once an epoch, in an order that seed and epoch alone decide.

    The last, smaller batch is left out where there is a full one. With several processes, each takes its part of
    every batch.

    Args:
        num_images: in the data.
        batch_size: images of a step, over all processes.
        seed: of the order.
        rank, world_size: this process and the number of processes.
        repeats: how often each image comes relative to the others, (num_images,), on average over epochs; an epoch
            stays as long. ``None`` for equally often.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: npt.NDArray[np.float64] | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {world_size} processes: choose a multiple of {world_size}"
            )
        self.num_images, self.batch_size, self.seed = num_images, min(batch_size, num_images), seed
        if num_images < batch_size and world_size > 1:
            raise ConfigError(
                f"{num_images} images are fewer than a batch of {batch_size}, and several processes need a whole one: "
                "choose a smaller batch, or train in one process"
            )
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.repeats = repeats

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def order(self, number: int) -> npt.NDArray[np.int64]:
        """The images of a pass over the data, (num_images,)."""
        # NumPy's generator, not PyTorch's: the order stays the same across devices and PyTorch versions.
        rng = np.random.default_rng((self.seed, number))
        if self.repeats is None:
            return rng.permutation(self.num_images)
        # Evenly spaced marks on a line on which each image has its share: it comes share times, rounded up or down.
        ends = np.cumsum(self.repeats / self.repeats.sum() * self.num_images)
        marks = np.arange(self.num_images) + rng.random()
        return rng.permutation(np.minimum(np.searchsorted(ends, marks, side="right"), self.num_images - 1))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.order(self.epoch)
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


class TrainImages(TorchDataset[Example]):
    """Augmented examples; an image that cannot be decoded is replaced by the next one, and named once.

    An example depends on seed, epoch and index alone, whichever process makes it.

    Args:
        dataset: what to learn from.
        size_hw: the network's input in pixels.
        settings: what is changed.
        seed: of chance.
        mask_stride: pixels of the input for one of the masks that are learned; ``None`` to leave masks out.
        varying: the input's size varies; see :func:`phidet.training.augmentation.detection.augment`.

    Attributes:
        own: an augmentation of the user's own, which comes before policies and colours; ``None`` for none.
        cache: of decoded images; of none unless another one is set.
        epochs: of the run, the last of which may be plain ones; ``None`` where that is not known.
    """

    own: OwnAugmentation | None = None
    epochs: int | None = None

    def __init__(
        self,
        dataset: Dataset,
        size_hw: tuple[int, int],
        settings: Augmentation,
        seed: int,
        mask_stride: int | None = None,
        varying: bool = False,
    ) -> None:
        self.dataset, self.size_hw, self.settings, self.seed = dataset, size_hw, settings, seed
        self.mask_stride, self.varying = mask_stride, varying
        self.cache = ImageCache(0)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        settings = self._settings_of(epoch)
        sample = self._seen(index, settings, rng, warn=epoch == 0)
        # Chance is only asked for what may happen: examples of runs without these changes stay what they were.
        for probability, combine in ((settings.copy_paste, paste_objects), (settings.mixup, mixed)):
            if probability > 0 and rng.random() < probability:
                other = self._seen(int(rng.integers(len(self.dataset))), settings, rng)
                sample = combine(sample, other, rng)
        sample = turned(sample, settings, rng)
        if self.own is not None:
            sample = self.own(sample, self.size_hw, len(self.dataset.class_names), rng)
        example = finish(sample, padded_hw(self.size_hw, settings, self.varying), settings, rng)
        if example.masks is None or self.mask_stride is None:
            return example
        return example._replace(masks=shrunk(example.masks, self.mask_stride))

    def _settings_of(self, epoch: int) -> Augmentation:
        """Those of an epoch: without whatever puts several images together in the last ones."""
        plain = self.epochs is not None and epoch >= self.epochs - self.settings.plain_epochs
        return msgspec.structs.replace(self.settings, mosaic=0, copy_paste=0, mixup=0) if plain else self.settings

    def _seen(self, index: int, settings: Augmentation, rng: np.random.Generator, warn: bool = False) -> Sample:
        """What the network would see of image ``index``, alone or in a mosaic."""
        labelled = self._read(index, warn)
        if settings.mosaic > 0 and rng.random() < settings.mosaic:
            # The other three may repeat; the warning is left to their own turn as a main image.
            others = [self._read(int(i), warn=False) for i in rng.integers(len(self.dataset), size=3)]
            return joined([labelled, *others], self.size_hw, settings, rng)
        return windowed(labelled, self.size_hw, settings, rng, self.varying)

    def _needed_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        return needed_hw(image_hw, self.size_hw, self.settings)

    def _read(self, index: int, warn: bool) -> Labelled:
        """Image ``index``, or the first one after it that can be decoded."""
        # A replacement keeps batches full and the sampler's order the same on every process.
        for attempt in range(len(self.dataset)):
            usable = (index + attempt) % len(self.dataset)
            try:
                annotations = self.dataset.annotations(usable)
                if self.mask_stride is not None:
                    annotations = with_masks(annotations, self.dataset.size_hw(usable))
                    return Labelled(self.dataset.image(usable), annotations)
                # Large photographs are decoded no larger than they may be seen, and boxes follow.
                image = self.cache.get(usable, partial(self.dataset.reduced, usable, self._needed_hw))
                boxes = annotations.boxes_xyxy / np.float32(image.factor)
                return Labelled(image.pixels, annotations._replace(boxes_xyxy=boxes, fields=NO_FIELDS))
            except InputError as error:
                if warn and attempt == 0:
                    log.warning("left out: %s", error)
        raise InputError(f"no image of {self.dataset.name} can be decoded: run 'phidet doctor' on the data")


EvalItem = tuple[int, tuple[Tensor, ...], Placement] | tuple[int, str]
"""Index, the network's inputs for one image and its placement; or index and what is wrong with the image."""


class EvalImages(TorchDataset[EvalItem]):
    """Images as deployment prepares them."""

    def __init__(self, dataset: Dataset, architecture: Architecture[Any], config: NetworkConfig) -> None:
        self.dataset, self.architecture, self.config = dataset, architecture, config

    def __getitem__(self, index: int) -> EvalItem:
        try:
            image = self.dataset.image(index)
        except InputError as error:
            return index, str(error)
        prepared = self.architecture.prepare(self.config, image)
        inputs = self.architecture.network_inputs([prepared])
        return index, tuple(torch.from_numpy(array) for array in inputs), prepared.placement


def collate_eval(items: list[EvalItem]) -> EvalBatch:
    """Prepared images as a batch, the broken ones set apart."""
    whole = [item for item in items if len(item) == 3]
    parts = []
    for group in by_shape([item[1][0].shape for item in whole]):
        chosen = [whole[i] for i in group]
        inputs = tuple(torch.cat(arrays) for arrays in zip(*(item[1] for item in chosen), strict=True))
        parts.append(EvalPart(inputs, [item[2] for item in chosen], [item[0] for item in chosen]))
    return EvalBatch(parts, [item for item in items if len(item) == 2])


def train_loader(
    examples: TorchDataset[Any], sampler: EpochSampler, workers: int, together: Callable[[list[Any]], Any] = collate
) -> DataLoader[Any]:
    """Batches made by ``together``; processes live as long as the loader: set ``sampler.epoch`` before each epoch."""
    return DataLoader(
        examples,
        batch_sampler=sampler,
        collate_fn=together,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ends_with_parent,
    )


def plainly(batches: Iterable[T]) -> Iterator[T]:
    """``batches``; a mistake that a loading process met is raised as if this one had, in one line.

    Raises:
        PhidetError: what a loading process raised.
    """
    try:
        yield from batches
    except PhidetError as error:
        # PyTorch puts the other process's traceback before what was said.
        said = re.search(rf"^(?:[\w.]+\.)?{type(error).__name__}: (.+)", str(error), re.MULTILINE | re.DOTALL)
        if said is None:
            raise
        raise type(error)(said[1].strip()) from None


def eval_loader(
    images: TorchDataset[EvalItem], indices: Sequence[int], batch_size: int, workers: int
) -> DataLoader[EvalItem]:
    """Batches of :class:`EvalBatch` of the images at ``indices``, in that order."""
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=indices,
        collate_fn=collate_eval,
        num_workers=workers,
        worker_init_fn=ends_with_parent,
    )


def pad_objects(boxes_xyxy: Sequence[Tensor], class_ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The objects of several images as two tensors, for :func:`assign_targets`.

    Args:
        boxes_xyxy: for each image, (N_i, 4); N_i may be 0.
        class_ids: for each image, (N_i,), each ≥ 0.

    Returns:
        (B, N, 4) float32 boxes, padded with 0, and (B, N) int64 class ids, padded with −1; N is the largest N_i.

    Raises:
        InputError: the two do not agree, or a class id is negative. The message names the image.
    """
    if len(boxes_xyxy) != len(class_ids):
        raise InputError(f"got the boxes of {len(boxes_xyxy)} images and the class ids of {len(class_ids)}")
    for i, (boxes, ids) in enumerate(zip(boxes_xyxy, class_ids, strict=True)):
        if boxes.ndim != 2 or boxes.shape[1] != 4 or ids.shape != boxes.shape[:1]:
            raise InputError(
                f"image {i}: expected boxes (N, 4) and class ids (N,), got {tuple(boxes.shape)} and "
                f"{tuple(ids.shape)}; an image without objects has (0, 4) and (0,)"
            )
        # −1 marks padding, so a negative id would silently drop the object.
        if (ids < 0).any():
            raise InputError(f"image {i}: class id {int(ids.min())}, expected 0 or more: −1 marks padding")
    padded = pad_sequence([boxes.float() for boxes in boxes_xyxy], batch_first=True)
    return padded, pad_sequence([ids.long() for ids in class_ids], batch_first=True, padding_value=-1)
