"""Made images: those that :mod:`phidet.inference.synthesize` writes, told from real ones by the names of their files.

A name survives what a field in one layout's labels does not: converting, copying, another tool.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset

_PREFIX = "made-by-phidet-"


def made_name(number: int) -> str:
    """The name of a made image."""
    return f"{_PREFIX}{number:06d}.png"


def made_images(dataset: Dataset) -> npt.NDArray[np.bool_]:
    """(N,) which images of ``dataset`` are made."""
    return np.array([PurePosixPath(name).name.startswith(_PREFIX) for name in dataset.names.tolist()], np.bool_)


def refuse_made(dataset: Dataset, allowed: bool = False) -> None:
    """Raises InputError if made images are among those to measure on, unless they are ``allowed``."""
    count = int(made_images(dataset).sum())
    if count and not allowed:
        raise InputError(
            f"{count} of the {len(dataset)} images of {dataset.name!r} are made, so metrics on them would say little "
            "of real ones: measure on another split, or say --made if that is what you want"
        )
