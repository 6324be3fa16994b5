"""The official DETR's values: weights and images by the seeding rule, and what it computed from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.weights.dialects import known_dialects
from phidet.weights.mapping import to_ours, weights_of

FOLDER = Path("reference", "detr")


def values(shared: Path, name: str) -> dict[str, Any]:
    """The arrays of a file."""
    with np.load(shared / FOLDER / f"{name}.npz") as file:
        return dict(file)


def rule(shared: Path) -> ModuleType:
    """The seeding rule."""
    spec = importlib.util.spec_from_file_location("seed_rule", shared / "reference" / "seed_rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_keys(shared: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of an official state dict: "resnet50", "resnet101_panoptic", …"""
    shapes: dict[str, tuple[int, ...]] = {}
    for line in (shared / FOLDER / f"keys_detr_{name}.txt").read_text().splitlines():
        key, _, shape = line.partition(" ")
        shapes[key] = tuple(int(side) for side in shape.strip("(),").split(",") if side.strip())
    return shapes


def seeded_tensors(shared: Path, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Official tensors by the seeding rule."""
    make = rule(shared).detr_array
    return {key: torch.from_numpy(np.asarray(make(key, shape, seed))) for key, shape in shapes.items()}


def with_weights(config: Any, tensors: dict[str, Tensor], dialect: str = "detr") -> Model:
    """The network of ``config`` with these tensors of a dialect, in double precision, for evaluation."""
    model = architecture_of(config).build(config)
    theirs = known_dialects()[dialect][1]
    canonical = {key: tensor for key, tensor in tensors.items() if theirs.canonical(key) is not None}
    mapped = to_ours(canonical, theirs, config, weights_of(model))
    assert not mapped.missing
    assert not mapped.unexpected
    assert mapped.tensors.keys() == weights_of(model).keys()
    model.load_state_dict(mapped.tensors, strict=False)
    return model.double().eval()


def images(shared: Path, sizes_hw: np.ndarray[Any, Any], key: str = "image{i}", seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch of images of these sizes, padded with 0, and the sizes."""
    normal = rule(shared).normal
    height, width = sizes_hw.max(0)
    batch = torch.zeros(len(sizes_hw), 3, int(height), int(width), dtype=torch.float64)
    for i, (h, w) in enumerate(sizes_hw.tolist()):
        batch[i, :, :h, :w] = torch.from_numpy(normal(f"input/{key.format(i=i)}", (3, h, w), seed).astype(np.float32))
    return batch, torch.from_numpy(sizes_hw)
