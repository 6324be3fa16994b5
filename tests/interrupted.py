"""Trainings that are interrupted between two epochs, and what they end with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import peers
from phidet import load_model
from phidet.training import fit


@contextmanager
def interrupted_after(epochs: int) -> Iterator[None]:
    """In the block, trainings are interrupted as by Ctrl-C as soon as they have done so many epochs."""
    real = fit.train_epoch

    def train_epoch(learner: Any, loader: Any, recipe: Any, epoch: int) -> dict[str, float]:
        if epoch == epochs:
            raise KeyboardInterrupt
        return real(learner, loader, recipe, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "train_epoch", train_epoch)
        yield


def same_weights(one: Path, other: Path) -> bool:
    """Whether two model files have the same tensors, to the last bit."""
    return peers.same_tensors(*(load_model(path).state_dict() for path in (one, other)))
