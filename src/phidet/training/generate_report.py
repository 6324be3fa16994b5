"""The report on a trained generator."""

from __future__ import annotations

from pathlib import Path

from phidet.architectures.model import Model
from phidet.data.dataset import Dataset


def report_generator(model: Model, train: Dataset, folder: Path) -> dict[str, float]:
    """TODO"""
    return {}
