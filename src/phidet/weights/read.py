"""Reads the tensors of a weight file, whatever it is: safetensors, HDF5, or a PyTorch pickle without code.

Nothing in a file is executed. The kind is told by the first bytes, not by the file's name.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phidet.architectures.dialect import Dialect
from phidet.architectures.efficientdet.dialect_automl import AVERAGE
from phidet.core.errors import CheckpointError
from phidet.weights.dialects import known_dialects

AVERAGED_FIRST = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
"""Where training checkpoints keep their weights, the averaged ones preferred."""


class RawFile(NamedTuple):
    """Tensors by the names that the file gives them, and the text beside them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> RawFile:
    """All tensors of the file, on the CPU.

    Raises:
        CheckpointError: missing, empty, truncated, not a weight file, or a pickle that wants to run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read weights from {path}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty: expected a weight file; copy or download it again")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return RawFile(_read_hdf5(path), {})
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return RawFile(_read_pickle(path), {})
    raise CheckpointError(
        f"{path} is not a weight file that phidet knows (first bytes {head[:8]!r}): expected .safetensors, "
        "Keras .h5, or a PyTorch .pth"
    )


def _read_safetensors(path: Path) -> RawFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 — not a dict
            return RawFile(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}

    def collect(key: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and np.issubdtype(item.dtype, np.number):
            tensors[key] = torch.from_numpy(np.array(item))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # storages of old files announce their deprecation
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        # PyTorch's own text is long, and advises to run the code.
        refused = isinstance(error, pickle.UnpicklingError)
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if not (refused and unsafe):
            raise _damaged(path, "not a pickle of torch.save" if refused else error) from error
        raise CheckpointError(
            f"{path} was not loaded: it holds more than tensors ({unsafe[1]}), and loading that could run code. "
            "Save its state_dict alone, with torch.save(model.state_dict(), ...), in the environment that made it"
        ) from error
    return _find_state(content, path)


def _damaged(path: Path, reason: Exception | str) -> CheckpointError:
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return CheckpointError(f"{path} is damaged or truncated: {lines[0].rstrip('.')}. Copy or download it again")


def _find_state(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a bare state dict or of a training checkpoint that wraps one."""
    if isinstance(content, dict):
        for key in AVERAGED_FIRST:
            inner = content.get(key)
            if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
                return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds no tensors by name: expected a state dict, got {type(content).__name__}")


def recognise(tensors: dict[str, Tensor]) -> tuple[Dialect, dict[str, Tensor]] | None:
    """The dialect of these tensors and the same tensors under canonical keys; ``None`` where no dialect fits."""
    for _, dialect in known_dialects().values():
        canonical: dict[str, Tensor] = {}
        for key in sorted(tensors, key=lambda key: key.removesuffix(":0").endswith(AVERAGE)):  # averages come last
            name = dialect.canonical(key)
            if name is not None:
                canonical[name] = tensors[key]
        if dialect.recognise(canonical):
            return dialect, canonical
    return None
