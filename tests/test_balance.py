"""Class balance by repeat factors: the documented frequencies, and epochs that stay as long."""

from __future__ import annotations

import numpy as np
import pytest

from phidet.data.dataset import Annotations, Dataset
from phidet.training.balance import repeat_factors
from phidet.training.loading import EpochSampler


def dataset_of(classes: list[list[int]], crowds: list[list[bool]] | None = None) -> Dataset:
    """Images with objects of these classes, without pixels."""
    annotations = []
    for i, ids in enumerate(classes):
        boxes = np.tile(np.array([[0, 0, 8, 8]], np.float32), (len(ids), 1))
        crowd = np.array(crowds[i] if crowds else [False] * len(ids), bool)
        areas = np.full(len(ids), 64, np.float32)
        annotations.append(Annotations(boxes, np.array(ids, np.int64), areas, crowd, np.zeros(len(ids), bool)))
    names = [f"{i}.png" for i in range(len(classes))]
    sizes = np.full((len(classes), 2), 8, np.int32)
    return Dataset(
        "made", ("often", "seldom", "never"), names=names, sources=names, annotations=annotations, sizes_hw=sizes
    )


def test_factors_are_those_of_the_paper() -> None:
    """Of 8 images "often" is on 7 and "seldom" on 2: with t = 0.5 that is √(0.5 / 0.25) for images with "seldom"."""
    data = dataset_of([[0], [0, 0], [0], [0], [0], [0], [0, 1], [1, 1]])
    np.testing.assert_allclose(repeat_factors(data, 0.5), [1] * 6 + [2**0.5] * 2)
    np.testing.assert_allclose(repeat_factors(data, 0.25), [1] * 8)
    # With t = 1, every class counts.
    np.testing.assert_allclose(repeat_factors(data, 1.0), [(8 / 7) ** 0.5] * 6 + [2.0] * 2)


def test_crowds_and_empty_images_do_not_count() -> None:
    data = dataset_of([[0, 1], [], [0], [1]], [[False, True], [], [False], [False]])
    np.testing.assert_allclose(repeat_factors(data, 1.0), [2**0.5, 1, 2**0.5, 2])


@pytest.mark.parametrize("seed", [0, 1])
def test_images_come_as_often_as_their_factors_say(seed: int) -> None:
    """In each epoch as often as its share, rounded up or down; over many epochs exactly as often on average."""
    rng = np.random.default_rng(seed)
    repeats = rng.uniform(1, 4, 50)
    wanted = repeats / repeats.sum() * 50
    sampler = EpochSampler(50, 10, seed, repeats=repeats)
    total = np.zeros(50)
    for epoch in range(400):
        sampler.epoch = epoch
        batches = list(sampler)
        assert len(batches) == len(sampler) == 5  # an epoch stays as long
        counts = np.bincount([index for batch in batches for _, index in batch], minlength=50)
        assert (np.abs(counts - wanted) < 1).all()
        total += counts
    np.testing.assert_allclose(total / 400, wanted, atol=0.11)


def test_processes_share_the_order_and_the_seed_decides_it() -> None:
    repeats = np.linspace(1, 3, 24)
    whole = list(EpochSampler(24, 8, 3, repeats=repeats))
    shares = [list(EpochSampler(24, 8, 3, rank, 2, repeats)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert batch[0::2] == first
        assert batch[1::2] == second
    assert list(EpochSampler(24, 8, 3, repeats=repeats)) == whole
    assert list(EpochSampler(24, 8, 4, repeats=repeats)) != whole
