"""An appearance for each detection, from its detector's feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import peers
from phidet import Detections, create_model
from phidet.architectures.appearance import with_appearance
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError
from phidet.detections.graphs.graph import detection_graph
from phidet.weights.create import build_from

NAMES = ("bolt", "nut", "washer")


def found(*boxes: list[float], size_hw: tuple[int, int] = (128, 160)) -> Detections:
    scores = np.linspace(0.9, 0.5, len(boxes))
    return Detections(np.array(boxes, float).reshape(-1, 4), scores, np.zeros(len(boxes), int), NAMES, size_hw)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_appearance_is_the_mean_of_the_boxs_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """On maps that say where a cell is, the mean over a box is its centre."""
    model = create_model(peers.tiny_detector(NAMES))
    architecture = type(architecture_of(model.config))

    def places(self: Any, model: Any, images: torch.Tensor) -> Mapping[int, torch.Tensor]:
        maps = {}
        for level in (3, 4, 5):
            height, width = images.shape[2] >> level, images.shape[3] >> level
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            # The centre of cell i is at (i + ½) · 2^level pixels.
            maps[level] = torch.stack(
                [(columns + 0.5) * 2**level, (rows + 0.5) * 2**level, torch.full_like(rows, level)]
            )
            maps[level] = maps[level][None].float()
        return maps

    monkeypatch.setattr(architecture, "feature_maps", places)
    # √area: 80 → level 2 and up, so 3; 112 → 3; 56 → 2, so 3; with the image twice as large each is half as large.
    boxes = [20.0, 30.0, 100.0, 110.0], [10.0, 8.0, 150.0, 97.6], [60.0, 40.0, 90.0, 64.0]
    seen = with_appearance(model, noise(128, 160), found(*boxes)).fields["appearance"]
    centres = [[60, 70, 3], [80, 52.8, 3], [75, 52, 3]]
    np.testing.assert_allclose(seen, centres, atol=0.05)
    doubled = [[2 * side for side in box] for box in boxes]
    again = with_appearance(model, noise(256, 320), found(*doubled, size_hw=(256, 320))).fields["appearance"]
    np.testing.assert_allclose(again, centres, atol=0.05)


def test_maps_are_those_that_the_heads_see() -> None:
    torch.manual_seed(0)
    model = create_model(peers.tiny_detector(NAMES)).eval()
    images = torch.randn(1, 3, 128, 160)
    architecture = architecture_of(model.config)
    with torch.no_grad():
        maps = architecture.feature_maps(model, images)
        assert {level: tuple(m.shape[2:]) for level, m in maps.items()} == {
            3: (16, 20), 4: (8, 10), 5: (4, 5), 6: (2, 3), 7: (1, 2),
        }  # fmt: skip
        logits = model.class_head(list(maps.values()))
        torch.testing.assert_close(logits, model(images).class_logits)
    seen = with_appearance(model.train(), noise(128, 160), found([10, 10, 60, 50], [30, 30, 90, 120]))
    assert seen.fields["appearance"].shape == (2, 12)
    assert model.training
    assert detection_graph(seen).to_networkx().nodes[1]["appearance"] == seen.fields["appearance"][1].tolist()
    assert with_appearance(model, noise(128, 160), found()).fields["appearance"].shape == (0, 12)


def test_a_network_without_maps_says_so() -> None:
    classifier = build_from(peers.tiny_classifier(NAMES), None, replace_head=True)
    with pytest.raises(ConfigError, match="classifier networks have no feature maps to take an appearance from"):
        with_appearance(classifier, noise(64, 64), found([1, 1, 9, 9], size_hw=(64, 64)))
