"""The arithmetic of φ: the papers' equations at hand-computed values, monotone everywhere, D0 at zero."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phidet.architectures.backbones.published import EFFICIENTNETS
from phidet.architectures.backbones.scaling import (
    CompoundScaling,
    check_phi,
    round_channels,
    round_half_up,
    round_repeats,
    round_to_multiple,
)
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.published import classifier_config, scaled_classifier_config
from phidet.architectures.costs import Cost, count_costs, total
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.published import (
    EFFICIENTDETS,
    FAMILIES,
    Family,
    detector_config,
    scaled_detector_config,
)
from phidet.architectures.efficientdet.scaling import DetectorLaw
from phidet.core.errors import ConfigError

phis = st.floats(-2, 10)
GRID = [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 5, 7, 10]
FINE = [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75]


def sizes(config: ModelConfig) -> tuple[float, ...]:
    """Every number of a detector that φ moves."""
    backbone, network = config.backbone, config.feature_network
    return (
        backbone.width,
        backbone.depth,
        backbone.drop_path,
        network.channels,
        network.repeats,
        config.head_layers,
        *config.image_size_hw,
    )


@cache
def cost(config: ModelConfig | ClassifierConfig) -> Cost:
    return total(count_costs(config))


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, 8),  # at least one divisor
        (32 * 1.1, 32),  # 35.2: nearest
        (16 * 1.1, 16),  # 17.6: nearest is 16, which is 0.909 of it
        (17.8, 24),  # 16 would be 0.899 of it
        (40 * 1.1, 48),  # 44: halves go up
        (24 * 1.4, 32),  # 33.6
        (112 * 1.4, 160),  # 156.8
        (320 * 1.8, 576),
        (1280 * 2.2, 2816),
        (8.8, 8),
        (9, 16),  # 8 would be 0.889 of it
    ],
)
def test_round_channels(channels: float, expected: int) -> None:
    """Nearest multiple of 8, never below 90 %: the official ``round_filters``."""
    assert round_channels(channels) == expected


@given(st.floats(1, 1e5), st.sampled_from([4, 8, 16]))
def test_round_channels_never_loses_more_than_ten_per_cent(channels: float, divisor: int) -> None:
    rounded = round_channels(channels, divisor)
    assert rounded % divisor == 0
    assert rounded >= 0.9 * channels
    assert rounded - channels <= divisor
    assert rounded <= round_channels(channels * 1.01, divisor)


@pytest.mark.parametrize(
    ("repeats", "expected"), [(1, 1), (1.1, 2), (3 * 1.2, 4), (4 * 1.8, 8), (2 * 0.5, 1), (0.3, 1)]
)
def test_round_repeats_goes_up(repeats: float, expected: int) -> None:
    assert round_repeats(repeats) == expected


def test_halves_go_up_and_multiples_stay_positive() -> None:
    assert [round_half_up(v) for v in (0.5, 1.5, 2.5, -0.5, 2.4999)] == [1, 2, 3, 0, 2]  # round() gives 0, 2, 2
    assert [round_to_multiple(v, 32) for v in (0, 15, 16, 47, 48, 512)] == [32, 32, 32, 32, 64, 512]


# --- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "channels", "cells", "head_layers", "size"),
    [
        (-2, 32, 1, 2, 256),  # 64 / 1.8225 = 35.1; 3 + ⌊-2/3⌋ = 2
        (-1, 48, 2, 2, 384),  # 47.4
        (0, 64, 3, 3, 512),
        (0.5, 72, 4, 3, 576),  # 74.4; 3.5 cells: halves up
        (1, 88, 4, 3, 640),  # 86.4
        (1.5, 104, 5, 3, 704),  # 100.4: 12.55 eights
        (2, 120, 5, 3, 768),  # 116.6: 14.58 eights
        (3, 160, 6, 4, 896),  # 157.5
        (4, 216, 7, 4, 1024),  # 212.6
        (5, 288, 8, 4, 1152),  # 287.0
        (6, 384, 9, 5, 1280),  # 387.4
        (7, 520, 10, 5, 1408),  # 523.0
    ],
)
def test_detector_law(phi: float, channels: int, cells: int, head_layers: int, size: int) -> None:
    """EfficientDet eq. 1–3: 64 · 1.35^φ, 3 + φ, 3 + ⌊φ/3⌋, 512 + 128 · φ, and how they are rounded."""
    law = DetectorLaw()
    assert (law.channels(phi), law.cells(phi), law.head_layers(phi), law.image_size(phi)) == (
        channels,
        cells,
        head_layers,
        size,
    )


def test_compound_law() -> None:
    """EfficientNet eq. 3: α^φ, β^φ, γ^φ; α·β²·γ² = 1.2 · 1.21 · 1.3225 = 1.92027 ≈ 2."""
    law = CompoundScaling()
    assert (law.alpha, law.beta, law.gamma) == (1.2, 1.1, 1.15)
    assert law.cost() == pytest.approx(1.92027)
    assert law.cost(3) == pytest.approx(1.92027**3)
    assert (law.depth(2), law.width(2), law.resolution(2)) == pytest.approx((1.44, 1.21, 1.3225))
    assert (law.depth(-1), law.width(-1), law.resolution(-1)) == pytest.approx((1 / 1.2, 1 / 1.1, 1 / 1.15))
    assert (law.depth(0), law.width(0), law.resolution(0), law.cost(0)) == (1, 1, 1, 1)


def test_compound_law_of_ones_own_reaches_the_networks() -> None:
    """Custom α, β, γ decide depth, width and a classifier's input, and nothing else."""
    compound = CompoundScaling(alpha=1.5, beta=1.3, gamma=1.25)
    classifier = scaled_classifier_config(2, compound=compound)
    assert (classifier.backbone.depth, classifier.backbone.width) == pytest.approx((2.25, 1.69))
    assert classifier.image_size_hw == (352, 352)  # 224 · 1.5625 = 350; 87.5 fours go up to 88
    assert classifier.head_channels == 2160  # 1280 · 1.69 = 2163.2
    detector = scaled_detector_config(2, Family(compound=compound))
    assert (detector.backbone.depth, detector.backbone.width) == pytest.approx((2.25, 1.69))
    plain = scaled_detector_config(2)
    assert msgspec.structs.replace(detector, backbone=plain.backbone) == plain


def test_laws_of_ones_own() -> None:
    law = DetectorLaw(width_base=32, width_factor=2, depth_base=1, head_base=1, size_base=256, size_step=64)
    assert [law.channels(p) for p in (0, 1, 3)] == [32, 64, 256]
    assert [law.cells(p) for p in (-2, 0, 3)] == [1, 1, 4]
    assert [law.head_layers(p) for p in (-2, 0, 3)] == [1, 1, 2]
    assert [law.image_size(p) for p in (-1, 0, 2.25)] == [192, 256, 416]  # 400: 12.5 thirty-twos go up


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0.9, 0, -1.0, math.nan, math.inf])
def test_shrinking_compound_factors_are_refused(name: str, value: float) -> None:
    """Eq. 3 demands α, β, γ ≥ 1; else a larger φ would be a smaller model."""
    with pytest.raises(ConfigError, match=rf"{name} must be a number ≥ 1.*got {value!r}"):
        CompoundScaling(**{name: value})


def test_shrinking_width_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width_factor must be a number ≥ 1.*got 0.5"):
        DetectorLaw(width_factor=0.5)


def test_classifier_dropout_grows_from_b0_to_b7() -> None:
    """EfficientNet section 5.2: 0.2 at φ = 0 to 0.5 at φ = 7, linear between and constant outside."""
    dropouts = [scaled_classifier_config(p).dropout for p in (-2, 0, 3.5, 7, 10)]
    assert dropouts == pytest.approx([0.2, 0.2, 0.35, 0.5, 0.5])


def test_stochastic_depth_begins_above_zero() -> None:
    """Official code: none for B0, 0.2 above; no other architecture has it."""
    assert [scaled_detector_config(p).backbone.drop_path for p in (-1, 0, 0.01, 4)] == [0, 0, 0.2, 0.2]
    assert scaled_detector_config(4, FAMILIES["efficientdet-resnet50"]).backbone.drop_path == 0


# --- φ = 0, and the order of everything else --------------------------------------------------------------------------


def test_phi_zero_is_d0() -> None:
    """Law and published model agree at φ = 0, in every field but the name."""
    assert msgspec.structs.replace(scaled_detector_config(0), name="efficientdet-d0") == detector_config(
        "efficientdet-d0"
    )
    lite = scaled_detector_config(0, FAMILIES["efficientdet-lite"])
    assert msgspec.structs.replace(lite, name="efficientdet-lite0") == detector_config("efficientdet-lite0")
    for kind in ("efficientnet", "efficientnet-lite"):
        name = "efficientnet-b0" if kind == "efficientnet" else "efficientnet-lite0"
        assert msgspec.structs.replace(scaled_classifier_config(0, kind), name=name) == classifier_config(name)


@given(phis, phis, st.sampled_from(sorted(FAMILIES)))
def test_nothing_shrinks_when_phi_grows(a: float, b: float, family: str) -> None:
    low, high = sorted((a, b))
    small, large = (scaled_detector_config(p, FAMILIES[family]) for p in (low, high))
    assert all(s <= g for s, g in zip(sizes(small), sizes(large), strict=True))
    first, second = (scaled_classifier_config(p, FAMILIES[family].architecture) for p in (low, high))
    assert first.image_size_hw <= second.image_size_hw
    assert first.head_channels <= second.head_channels
    assert first.dropout <= second.dropout


@given(phis)
def test_every_phi_gives_a_model_that_can_be_built(phi: float) -> None:
    """Multiples of 8 and 32, at least one cell and one layer, an input that the coarsest level fits into."""
    config = scaled_detector_config(phi)
    assert config.feature_network.channels % 8 == 0
    assert config.image_size_hw[0] % 32 == 0
    assert config.image_size_hw[0] >= 256
    assert min(config.feature_network.repeats, config.head_layers) >= 1
    assert config.name == f"efficientdet-phi{phi:g}"


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], FINE], ids=["coarse", "fine"])
def test_costs_never_fall_when_phi_grows(more: list[float]) -> None:
    """Parameters and multiply-adds, counted on the networks themselves."""
    costs = [cost(scaled_detector_config(phi)) for phi in sorted([*GRID, *more])]
    for smaller, larger in pairwise(costs):
        assert smaller.parameters <= larger.parameters
        assert smaller.multiply_adds < larger.multiply_adds


@pytest.mark.slow
def test_one_step_of_phi_about_doubles_the_cost() -> None:
    """What the message of ``check_phi`` promises; φ = −1 costs about half of D0."""
    at = {phi: cost(scaled_detector_config(phi)).multiply_adds for phi in (-2, -1, 0, 2, 4, 6, 8)}
    assert 0.4 < at[-1] / at[0] < 0.6
    assert 0.1 < at[-2] / at[0] < 0.3
    for phi in (0, 2, 4, 6):
        assert 1.9 < (at[phi + 2] / at[phi]) ** 0.5 < 2.5
    assert cost(scaled_classifier_config(1)).multiply_adds / cost(
        scaled_classifier_config(0)
    ).multiply_adds == pytest.approx(CompoundScaling().cost(), rel=0.25)


# --- the published family beside the laws -----------------------------------------------------------------------------

# (model, field) → (published, law): everything in which the shipped family departs from the law, by hand.
DEPARTURES: dict[tuple[str, str], tuple[object, object]] = {
    ("efficientdet-d2", "channels"): (112, 120),
    ("efficientdet-d4", "channels"): (224, 216),
    ("efficientdet-d5", "cells"): (7, 8),
    ("efficientdet-d5", "size"): (1280, 1152),
    ("efficientdet-d6", "cells"): (8, 9),
    ("efficientdet-d6", "fusion"): ("sum", "fast"),
    ("efficientdet-d7", "channels"): (384, 520),
    ("efficientdet-d7", "cells"): (8, 10),
    ("efficientdet-d7", "size"): (1536, 1408),
    ("efficientdet-d7", "fusion"): ("sum", "fast"),
    ("efficientdet-d7", "anchor_scale"): (5, 4),
    ("efficientdet-lite2", "channels"): (112, 120),
    ("efficientdet-lite3", "anchor_scale"): (4, 3),
    ("efficientdet-lite4", "channels"): (224, 216),
    ("efficientdet-lite4", "size"): (640, 576),
    ("efficientdet-lite4", "anchor_scale"): (4, 3),
}


def test_the_published_family_is_the_law_but_for_these() -> None:
    """All rows but the two that have no φ, D7x and Lite3x."""
    found: dict[tuple[str, str], tuple[object, object]] = {}
    for name, row in EFFICIENTDETS.items():
        if name.endswith("x"):
            continue
        family = FAMILIES["efficientdet-lite" if "lite" in name else "efficientdet"]
        law = scaled_detector_config(int(name[-1]), family)
        expected = {
            "size": law.image_size_hw[0],
            "channels": law.feature_network.channels,
            "cells": law.feature_network.repeats,
            "head_layers": law.head_layers,
            "anchor_scale": law.anchors.scale,
            "fusion": law.feature_network.fusion,
            "max_level": law.feature_network.max_level,
        }
        for field, value in expected.items():
            if getattr(row, field) != value:
                found[name, field] = (getattr(row, field), value)
    assert found == DEPARTURES


# Published (width, depth, input) beside β^φ, α^φ, 224 · γ^φ. B1 was drawn from the whole grid, not from φ = 1.
CLASSIFIER_TABLE = {
    "efficientnet-b0": (1.0, 1.0, 224),
    "efficientnet-b1": (1.0, 1.1, 240),
    "efficientnet-b2": (1.1, 1.2, 260),
    "efficientnet-b3": (1.2, 1.4, 300),
    "efficientnet-b4": (1.4, 1.8, 380),
    "efficientnet-b5": (1.6, 2.2, 456),
    "efficientnet-b6": (1.8, 2.6, 528),
    "efficientnet-b7": (2.0, 3.1, 600),
    "efficientnet-b8": (2.2, 3.6, 672),
    "efficientnet-lite0": (1.0, 1.0, 224),
    "efficientnet-lite1": (1.0, 1.1, 240),
    "efficientnet-lite2": (1.1, 1.2, 260),
    "efficientnet-lite3": (1.2, 1.4, 280),
    "efficientnet-lite4": (1.4, 1.8, 300),
}


def test_published_classifiers() -> None:
    """The official tables. B2…B8 are the law's depth at φ − 1, up to 8 %: eq. 3 counted from B1."""
    assert {name: (row.width, row.depth, row.size) for name, row in EFFICIENTNETS.items()} == CLASSIFIER_TABLE
    law = CompoundScaling()
    for i in range(2, 9):
        width, depth, size = CLASSIFIER_TABLE[f"efficientnet-b{i}"]
        assert depth == pytest.approx(law.depth(i - 1), rel=0.08)
        assert width == pytest.approx(law.width(i - 1), rel=0.14)
        assert size == pytest.approx(224 * law.resolution(i - 1), rel=0.2)


# --- what φ may be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [-2.01, 10.5, 100, math.nan, math.inf, -math.inf, True, "1", None, 1j])
def test_impossible_phi(phi: object) -> None:
    """One message for all of them: the range, what came, and what φ means."""
    with pytest.raises(ConfigError) as caught:
        check_phi(phi)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"phi must be a number from -2 to 10, got {phi!r}: "
        "0 is EfficientDet-D0, each step of 1 costs two to three times as much"
    )
    for scale in (scaled_detector_config, scaled_classifier_config):
        with pytest.raises(ConfigError, match="phi must be a number"):
            scale(phi)  # type: ignore[operator]


@pytest.mark.parametrize("phi", [-2, 10, 0, 1.5, -0.0])
def test_possible_phi(phi: float) -> None:
    checked = check_phi(phi)
    assert type(checked) is float
    assert checked == phi
