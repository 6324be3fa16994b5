"""Images that are set aside to validate on, where a data set has no split for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from phidet.data.dataset import Dataset
from phidet.data.layouts import DataFolder
from phidet.errors import InputError

HELD_OUT = 0.15  # of the images
_FEWEST = 5  # images from which some can be spared
RUN = "run.json"
"""What a run's folder says of itself."""


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two parts of ``dataset`` by chance, the second with ``share`` of the images; order is kept.

    Raises:
        InputError: too few images to spare any.
    """
    if len(dataset) < _FEWEST:
        raise InputError(
            f"{dataset.name!r} has {len(dataset)} images and no validation split: label more, or say --val-split none"
        )
    chosen = np.zeros(len(dataset), bool)
    chosen[np.random.default_rng(seed).permutation(len(dataset))[: max(1, round(share * len(dataset)))]] = True
    first, second = (np.flatnonzero(part).tolist() for part in (~chosen, chosen))
    return dataset.subset(first, dataset.name), dataset.subset(second, f"{dataset.name}, held out")


def trained_on(run: Path, data: Path) -> dict[str, Any] | None:
    """What the run in that folder says of itself, if ``data`` is what it was trained on; else ``None``."""
    try:
        about = msgspec.json.decode((run / RUN).read_bytes())
        same = Path(about["request"]["data"]).resolve() == data.resolve()
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return about if same and isinstance(about, dict) else None


def has_held_out(about: dict[str, Any], folder: DataFolder) -> bool:
    """Whether the run that says this of itself has set images of its own data, in ``folder``, aside."""
    return about["request"].get("val_split") is None and folder.val_split() is None


def train_split_of(about: dict[str, Any], folder: DataFolder) -> str:
    """The split of its own data that a run was trained on."""
    split: str = about["request"].get("train_split") or folder.train_split()
    return split
