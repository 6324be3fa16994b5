"""Image to network input: the official pipeline's values, and the laws of the way back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from phidet.images.decode import read_image
from phidet.images.prepare import IMAGENET, Preprocess, fit_scale, prepare, resize, scaled_size


def test_an_image_is_prepared_as_the_official_evaluation_does(shared: Path) -> None:
    reference = np.load(shared / "reference" / "official-reference.npz")
    image = read_image(shared / "data" / "bccd" / "JPEGImages" / "BloodImage_00000.jpg")
    prepared, scale = prepare(image, (512, 512), IMAGENET)
    wanted = np.squeeze(reference["preprocessed_bccd_00000_512_every8"]).transpose(2, 0, 1)
    np.testing.assert_allclose(prepared[:, ::8, ::8], wanted, atol=1e-6)
    assert scale == 1 / np.squeeze(reference["preprocessed_image_scale"]) == 0.8


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_resize_is_bilinear_without_antialiasing(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    peer = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    wanted = F.interpolate(peer, size_hw, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize(image, size_hw), wanted, atol=1e-3)  # of 255, in float32


@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), st.tuples(st.integers(64, 2048), st.integers(64, 2048)))
def test_the_image_just_fits(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    scale = fit_scale(image_hw, size_hw)
    height, width = scaled_size(image_hw, scale)
    assert height <= size_hw[0]
    assert width <= size_hw[1]
    assert height == size_hw[0] or width == size_hw[1]


def test_padding_is_right_below_and_zero() -> None:
    image = np.full((50, 100, 3), 200, np.uint8)
    prepared, scale = prepare(image, (128, 128), Preprocess(mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1)))
    assert scale == 1.28
    assert (prepared[:, :64] == 200).all()
    assert (prepared[:, 64:] == 0).all()


# Nothing that becomes one pixel wide: there PyTorch 2.14 repeats the first row.
@given(st.tuples(st.integers(20, 60), st.integers(20, 60)), st.integers(8, 40))
def test_antialiasing_is_a_mean_over_what_a_pixel_stands_for(image_hw: tuple[int, int], side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    spec = Preprocess(mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1))
    plain, scale = prepare(image, (side, side), spec)
    prepared, _ = prepare(image, (side, side), msgspec.structs.replace(spec, antialias=True))
    if scale >= 1:
        np.testing.assert_array_equal(prepared, plain)  # nothing is made smaller
        return
    height, width = scaled_size(image_hw, scale)
    peer = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].double()
    wanted = F.interpolate(peer, (height, width), mode="bilinear", align_corners=False, antialias=True)[0]
    np.testing.assert_allclose(prepared[:, :height, :width], wanted, atol=1.01)  # rounded after each of two passes
    assert not prepared[:, height:].any()
    assert not prepared[:, :, width:].any()


def test_stripes_finer_than_a_pixel_become_grey() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 1::4] = 255
    spec = Preprocess(mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1), antialias=True)
    prepared, _ = prepare(image, (8, 8), spec)
    np.testing.assert_allclose(prepared[:, :, 1:-1], 255 / 4, atol=1)
    plain, _ = prepare(image, (8, 8), msgspec.structs.replace(spec, antialias=False))
    assert plain.max() == 0  # between the nearest pixels there is none
