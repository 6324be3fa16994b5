"""Anchors: equal to the official code's and to effdet's, and laws that hold for any image size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from phidet.architectures.efficientdet.anchors import generate_anchors, level_sizes, level_slices
from phidet.architectures.efficientdet.config import ASPECTS_2020, ASPECTS_OFFICIAL, AnchorConfig
from phidet.core.errors import InputError
from phidet.detections import boxes

with warnings.catch_warnings():  # effdet compiles itself with what PyTorch calls deprecated
    warnings.simplefilter("ignore")
    import effdet.anchors

LEVELS = range(3, 8)
REFERENCE = Path(__file__).resolve().parents[2] / "shared/reference/official-reference.npz"
SIZES = [(256, 256), (512, 640), (130, 390), (333, 257), (128, 1000)]


@pytest.mark.skipif(not REFERENCE.exists(), reason="no ../shared")
def test_official_values() -> None:
    official = np.load(REFERENCE)["anchors_yxyx"]
    ours = generate_anchors((256, 256), LEVELS, AnchorConfig(scale=4.0, aspects_wh=ASPECTS_OFFICIAL))
    np.testing.assert_allclose(ours, boxes.xyxy_to_yxyx(official), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("scale", [3.0, 4.0, 5.0])
def test_effdet_values(size_hw: tuple[int, int], scale: float) -> None:
    theirs = effdet.anchors.Anchors(3, 7, 3, list(ASPECTS_2020), scale, size_hw).boxes.numpy()
    ours = generate_anchors(size_hw, LEVELS, AnchorConfig(scale=scale, aspects_wh=ASPECTS_2020))
    np.testing.assert_allclose(ours, boxes.xyxy_to_yxyx(theirs), rtol=0, atol=1e-4)


def test_a_case_computed_by_hand() -> None:
    config = AnchorConfig(scale=1.0, octaves=2, aspects_wh=((1.0, 1.0), (2.0, 0.5)))
    ours = generate_anchors((4, 8), (1, 2), config)
    big = 2**0.5
    expected_sizes = [(2, 2), (4, 1), (2 * big, 2 * big), (4 * big, big)]  # octave first, then aspect
    first_centres = [(1, 1), (3, 1), (5, 1), (7, 1), (1, 3), (3, 3), (5, 3), (7, 3)]  # (x, y), along rows
    last_centres = [(2, 2), (6, 2)]
    expected = [(*centre, *size) for centre in first_centres for size in expected_sizes]
    expected += [(*centre, 2 * w, 2 * h) for centre in last_centres for w, h in expected_sizes]
    np.testing.assert_allclose(boxes.xyxy_to_cxcywh(ours), expected, rtol=1e-6)


@pytest.mark.parametrize("size_hw", SIZES)
def test_cells_tile_the_image_whatever_its_size(size_hw: tuple[int, int]) -> None:
    config = AnchorConfig(scale=1.0, octaves=1, aspects_wh=((1.0, 1.0),))  # then an anchor is its cell
    cells = generate_anchors(size_hw, LEVELS, config)
    for level, (rows, columns), part in zip(
        LEVELS, level_sizes(size_hw, LEVELS), level_slices(size_hw, LEVELS, config), strict=True
    ):
        grid = cells[part].reshape(rows, columns, 4)
        np.testing.assert_allclose(grid[:, :-1, 2], grid[:, 1:, 0], atol=1e-3)
        np.testing.assert_allclose(grid[:-1, :, 3], grid[1:, :, 1], atol=1e-3)
        np.testing.assert_allclose(grid[0, 0, :2], 0, atol=1e-3)
        np.testing.assert_allclose(grid[-1, -1, 2:], size_hw[::-1], atol=1e-3)
        assert (boxes.xyxy_to_xywh(grid)[..., 2:] <= 2**level + 1e-3).all()


@pytest.mark.parametrize(
    ("side", "cells"), [(256, [32, 16, 8, 4, 2]), (257, [33, 17, 9, 5, 3]), (300, [38, 19, 10, 5, 3])]
)
def test_maps_are_halved_rounding_up(side: int, cells: list[int]) -> None:
    assert level_sizes((side, 512), LEVELS) == tuple(zip(cells, [64, 32, 16, 8, 4], strict=True))


def test_slices_follow_each_other_to_the_end() -> None:
    config = AnchorConfig()
    parts = level_slices((320, 320), LEVELS, config)
    assert [part.stop - part.start for part in parts] == [9 * n * n for n in (40, 20, 10, 5, 3)]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == len(generate_anchors((320, 320), LEVELS, config)) == 19206


def test_areas_are_those_of_scale_and_octave() -> None:
    config = AnchorConfig(scale=4.0)
    areas = boxes.area(generate_anchors((128, 128), (3, 4), config)).reshape(-1, 3, 3)  # cell, octave, aspect
    expected = (4 * 8 * 2 ** (np.arange(3) / 3)) ** 2
    np.testing.assert_allclose(areas[:256], np.broadcast_to(expected[:, None], (256, 3, 3)), rtol=1e-5)
    np.testing.assert_allclose(areas[256:], np.broadcast_to(4 * expected[:, None], (64, 3, 3)), rtol=1e-5)


def test_anchors_grow_with_the_image() -> None:
    small, large = (generate_anchors((s, 2 * s), (3, 4), AnchorConfig()) for s in (64, 128))
    doubled = generate_anchors((128, 256), (4, 5), AnchorConfig())
    np.testing.assert_allclose(doubled, 2 * small, rtol=1e-6, atol=1e-5)
    assert len(large) == 4 * len(small)


def test_the_array_is_shared_and_cannot_be_written() -> None:
    ours = generate_anchors((128, 128), [3, 4], AnchorConfig())
    assert ours is generate_anchors((128, 128), (3, 4), AnchorConfig())
    with pytest.raises(ValueError, match="read-only"):
        ours[0, 0] = 1


@pytest.mark.parametrize("size_hw", [(127, 512), (512, 127), (0, 0)])
def test_an_image_below_the_coarsest_stride_is_refused(size_hw: tuple[int, int]) -> None:
    for call in (
        lambda: generate_anchors(size_hw, LEVELS, AnchorConfig()),
        lambda: level_slices(size_hw, LEVELS, AnchorConfig()),
        lambda: level_sizes(size_hw, LEVELS),
    ):
        with pytest.raises(InputError, match=rf"{size_hw[0]}×{size_hw[1]} pixels .* stride, 128 \(level 7\)"):
            call()
