"""Reads the tensors of a weight file, whatever it is: safetensors, HDF5, or a file of ``torch.save``.

No code in a file is executed. Its kind is recognised by its first bytes, not by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from phidet.architectures.dialect import AVERAGE, WRAPPED_AVERAGES, Dialect, unwrap
from phidet.core.errors import CheckpointError, MissingExtraError
from phidet.weights.dialects import known_dialects
from phidet.weights.torch_pickle import Placeholder, TensorRecord, TorchFile, from_bfloat16, open_torch_file

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict")
PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights")
"""Where training checkpoints keep their weights; averaged ones are preferred."""
T = TypeVar("T")
_MAX_DEPTH = 4  # nesting of such keys
_MAX_MODULES = 100_000


class RawFile(NamedTuple):
    """Tensors by the file's names, and its text metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> RawFile:
    """All tensors of the file, on the CPU.

    Raises:
        CheckpointError: missing, empty, damaged, truncated, not a weight file, or one without tensors.
    """
    kind = _kind(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "pickle":
        return RawFile(_read_pickle(path, TorchFile.tensor), {})
    import torch  # noqa: PLC0415 - arrays are read without it

    return RawFile({key: torch.from_numpy(array) for key, array in _read_hdf5(path).items()}, {})


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors of the file as arrays, without PyTorch; bfloat16, which NumPy lacks, as float32.

    Raises:
        CheckpointError: as :func:`read_tensors`, or tensors of another type that NumPy lacks.
        MissingExtraError: what reads such a file is not installed.
    """
    kind = _kind(path)
    if kind == "safetensors":
        return _read_safetensors_arrays(path)
    return _read_hdf5(path) if kind == "hdf5" else _read_pickle(path, TorchFile.array)


def _kind(path: Path) -> Literal["hdf5", "safetensors", "pickle"]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read weights from {path}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty: expected a weight file; copy or download it again")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    # safetensors has no signature: a length of 8 bytes, then a JSON object.
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "pickle"
    raise CheckpointError(
        f"{path} is not a weight file that phidet knows: expected .safetensors, Keras .h5, or a PyTorch .pth"
    )


def _read_safetensors(path: Path) -> RawFile:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - not needed for published files

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 — not a dict
            return RawFile(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Of safetensors, as NumPy reads them."""


def _read_safetensors_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        from safetensors import SafetensorError, deserialize  # noqa: PLC0415 - not needed for published files
    except ImportError as error:
        raise MissingExtraError(f"reading {path.name}", "published") from error
    try:
        read: Callable[[bytes], list[tuple[str, Mapping[str, Any]]]] = deserialize  # untyped
        return {key: _array(stored) for key, stored in read(path.read_bytes())}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _array(stored: Mapping[str, Any]) -> npt.NDArray[Any]:
    kind = stored["dtype"]
    if kind not in _TYPES:
        raise ValueError(f"a tensor of type {kind}, which NumPy lacks")
    numbers = np.frombuffer(stored["data"], _TYPES[kind]).reshape(stored["shape"])
    return from_bfloat16(numbers) if kind == "BF16" else numbers


def _read_hdf5(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        import h5py  # noqa: PLC0415 - not needed for PyTorch's files
    except ImportError as error:
        raise MissingExtraError(f"reading {path.name}", "published") from error
    arrays: dict[str, npt.NDArray[Any]] = {}

    def collect(key: str, item: object) -> None:
        # Keras stores texts as well, such as the version and the config.
        if isinstance(item, h5py.Dataset) and np.issubdtype(item.dtype, np.number):
            arrays[key] = np.array(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return arrays


def _read_pickle(path: Path, read: Callable[[TorchFile, TensorRecord], T]) -> dict[str, T]:
    try:
        with open_torch_file(path) as file:
            state = _find_state(file.content)
            tensors = {name: read(file, record) for name, record in state.items()}
            kind = "Tensor" if isinstance(file.content, TensorRecord) else type(file.content).__name__
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name: expected a state dict, got {kind}")
    return tensors


def _damaged(path: Path, reason: Exception | str) -> CheckpointError:
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return CheckpointError(f"{path} is damaged or truncated: {lines[0].rstrip('.')}. Copy or download it again")


def _find_state(content: object, depth: int = _MAX_DEPTH) -> dict[str, TensorRecord]:
    """The tensors of a state dict, of a whole model, or of a training checkpoint around one of them; empty if none."""
    if not isinstance(content, dict):
        return {}
    attributes = content.attributes if isinstance(content, Placeholder) else {}
    if "_modules" in attributes and isinstance(content, Placeholder):
        return _module_state(content)
    # Trainers nest weights differently (state_dict, model.state_dict, …): the first key that leads to tensors is used.
    fields = attributes | content
    for key in (*AVERAGED, *PLAIN) if depth else ():
        state = _find_state(fields.get(key), depth - 1)
        if state:
            return state
    return {str(name): value for name, value in content.items() if isinstance(value, TensorRecord)}


def _module_state(module: Placeholder) -> dict[str, TensorRecord]:
    """The ``state_dict()`` of a pickled ``torch.nn.Module``, without running its code."""
    state: dict[str, TensorRecord] = {}
    pending = [("", module)]
    # A loop and not a recursion, with an end: a crafted pickle may have modules that contain themselves.
    for _ in range(_MAX_MODULES):
        if not pending:
            return state
        prefix, module = pending.pop()
        parts = module.attributes
        # state_dict() leaves these out, and so would the dialects not know them.
        hidden = parts.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, value in _items(parts.get(group)):
                if isinstance(value, TensorRecord) and not (isinstance(hidden, set) and name in hidden):
                    state[f"{prefix}{name}"] = value
        children = [(f"{prefix}{name}.", child) for name, child in _items(parts.get("_modules"))]
        # Reversed on a stack: the order of state_dict(), in which the first children come first.
        pending += [(name, child) for name, child in reversed(children) if isinstance(child, Placeholder)]
    raise CheckpointError(f"a model of more than {_MAX_MODULES} parts")


def _items(value: object) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


class Recognised(NamedTuple, Generic[T]):
    """A foreign file whose dialect is known.

    Attributes:
        dialect: of its keys.
        tensors: by canonical keys.
        beside: keys of tensors that do not belong to the network: those of a trainer that wraps it.
    """

    dialect: Dialect
    tensors: dict[str, T]
    beside: list[str]


def recognise(tensors: dict[str, T]) -> Recognised[T] | None:
    """The dialect of these tensors and the same tensors under canonical keys; ``None`` if no dialect matches.

    Raises:
        CheckpointError: there are two sets of weights, neither of them an average.
    """
    wrapped = {key: tensor for key, tensor in tensors.items() if unwrap(key).wrappers}
    # If only some keys have a wrapper's prefix, the network is under it and the rest belongs to the trainer.
    for candidates in (wrapped, tensors) if 0 < len(wrapped) < len(tensors) else (tensors,):
        for _, dialect in known_dialects().values():
            canonical = _canonical(candidates, dialect)
            if dialect.recognise(canonical):
                _check_one_set(canonical)
                beside = sorted(tensors.keys() - candidates.keys())
                return Recognised(
                    dialect,
                    {name: tensors[keys[-1]] for name, keys in canonical.items()},
                    [key for key in beside if dialect.canonical(key) is not None],
                )
    return None


def _canonical(tensors: Mapping[str, object], dialect: Dialect) -> dict[str, list[str]]:
    """Canonical name → the keys of the file that have it, averages last."""
    canonical: dict[str, list[str]] = {}
    for key in sorted(tensors, key=_is_average):
        name = dialect.canonical(key)
        if name is not None:
            canonical.setdefault(name, []).append(key)
    return canonical


def _is_average(key: str) -> bool:
    return key.removesuffix(":0").endswith(AVERAGE) or not WRAPPED_AVERAGES.isdisjoint(unwrap(key).wrappers)


def _check_one_set(canonical: dict[str, list[str]]) -> None:
    # An average beside the plain weights is expected, and used. Two of a kind leave open which one is meant.
    for keys in canonical.values():
        alike = [key for key in keys if _is_average(key) == _is_average(keys[-1])]
        if len(alike) > 1:
            raise CheckpointError(
                f"it holds several sets of weights, as {' and '.join(alike)}: save the one to load by itself"
            )
