"""The arrays of a foreign weight file by our names, without PyTorch; each is found when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phidet.architectures.dialect import AXES, Config, Dialect, Slot
from phidet.architectures.weights import Array
from phidet.core.errors import CheckpointError


class DialectArrays(Mapping[str, Array]):
    """A foreign file's arrays under our names; what a dialect may leave out, as it is always the same, is one number.

    Args:
        foreign: the file's arrays by canonical key.
        dialect: of the file.
        config: of the network that it holds.
        path: for messages.
    """

    def __init__(self, foreign: Mapping[str, Array], dialect: Dialect, config: Config, path: Path) -> None:
        self._foreign, self._dialect, self._config, self._path = foreign, dialect, config, path
        self._used: set[str] = set(dialect.fillers(config))

    def __contains__(self, name: object) -> bool:
        slot = self._slot(str(name))
        return slot is not None and all(key in self._foreign for key in slot.keys)

    def __getitem__(self, name: str) -> Array:
        slot = self._slot(name)
        missing = [key for key in slot.keys if key not in self._foreign] if slot is not None else [name]
        if slot is not None and missing and slot.default is not None:
            return np.full(1, slot.default)  # of one number, which fits any shape
        if slot is None or missing:
            raise CheckpointError(f"{self._path} does not fit {self._config.name}: it lacks {', '.join(missing[:4])}")
        # So that what the network never asks for can be named.
        self._used.update(slot.keys)
        arrays = [self._foreign[key] for key in slot.keys]
        if slot.layout == "scalars":
            return np.concatenate([array.reshape(-1) for array in arrays])
        if slot.layout == "parts":
            return np.concatenate(arrays)
        return arrays[0].transpose(AXES[slot.layout][0]) if slot.layout in AXES else arrays[0]

    def __iter__(self) -> Iterator[str]:
        raise TypeError("names are known by the network that asks for them, not by the file")

    def __len__(self) -> int:
        return len(self._foreign)

    def check_all_used(self) -> None:
        """Raises CheckpointError where the file holds more than what was asked for: it is of another network."""
        rest = sorted(self._foreign.keys() - self._used)
        if rest:
            shown = ", ".join(rest[:4])
            raise CheckpointError(f"{self._path} does not fit {self._config.name}: {len(rest)} unexpected: {shown}")

    def _slot(self, name: str) -> Slot | None:
        slot: Slot | None = self._dialect.slot(name, self._config)
        return slot


def adapted_config(architecture: Any, config: Config, arrays: Mapping[str, Array], dialect: Dialect) -> Config:
    """``config`` with the class count and the anchors that the file determines; see ``Architecture.adapt_config``."""

    def find(name: str) -> Array | None:
        slot = dialect.slot(name, config)
        return arrays.get(slot.keys[0]) if slot else None

    return architecture.adapt_config(config, find, dialect)
