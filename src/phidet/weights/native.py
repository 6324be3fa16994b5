"""phidet's own model file: one ``.safetensors`` with the config inside, so with classes and preprocessing.

Its metadata is the header of :mod:`phidet.architectures.header`. A file of a newer version, with an unknown key,
or with other tensors than the config builds, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from phidet.architectures.header import KEYS, THRESHOLDS, Header, from_metadata, to_metadata
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError, PhidetError
from phidet.core.files import write_atomic
from phidet.core.structs import to_json
from phidet.detections.thresholds import Thresholds
from phidet.weights.mapping import check_shapes, mismatch_error, same_names, weights_of
from phidet.weights.read import RawFile, read_tensors


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically; an existing one stays until the new one is complete.

    Raises:
        CheckpointError: the folder does not exist, is not writable, or the disk is full.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}. Make it first")
    try:
        write_atomic(path, content)
    except PhidetError as error:
        raise CheckpointError(f"{error}. Nothing was changed") from error


def save_model(model: Model, path: str | Path) -> None:
    """Writes ``model`` with its config to ``path``, atomically. The same model gives the same bytes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights_of(model).items()}
    write_atomically(
        Path(path), _with_sorted_header(save(tensors, metadata=to_metadata(model.config, model.thresholds)))
    )


def store_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Puts thresholds into the header of a ``.safetensors`` file, atomically; the weights stay as they are.

    Raises:
        CheckpointError: it is not a phidet model file, or cannot be written.
    """
    if read_header(path) is None:
        raise CheckpointError(f"{path} is not a phidet model file, so that it can store no thresholds")
    write_atomically(path, _with_sorted_header(path.read_bytes(), {THRESHOLDS: to_json(thresholds)}))


def _with_sorted_header(content: bytes, added: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The file with sorted metadata, so that equal models give equal bytes: safetensors orders it at random."""
    # A safetensors file is a length of 8 bytes, that much JSON, then the tensors.
    end = 8 + int.from_bytes(content[:8], "little")
    described = msgspec.json.decode(content[8:end])
    described["__metadata__"] |= added
    header = msgspec.json.encode(described, order="deterministic")
    header += b" " * (-len(header) % 8)  # the format aligns tensors to 8 bytes
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[end:]))


def load_model(path: str | Path) -> Model:
    """The model that the file holds, in evaluation mode.

    Raises:
        CheckpointError: not a phidet model file (convert others with ``phidet convert``), damaged, newer than this
            phidet, or inconsistent.
    """
    path = Path(path)
    raw = read_tensors(path)
    header = _native_header(raw, path)
    if header is None:
        raise CheckpointError(
            f"{path} is not a phidet model file: make one of it with 'phidet convert {path.name} model.safetensors', "
            "or give it as create_model(..., pretrained=...)"
        )
    # The config alone decides the network; the tensors must then fit it exactly.
    model = architecture_of(header.config).build(header.config)
    assign(model, raw.tensors, path)
    model.thresholds = header.thresholds
    return model.eval()


def read_header(path: Path) -> Header | None:
    """The header of a ``.safetensors`` file, without reading its tensors; ``None`` if it is not phidet's.

    Raises:
        CheckpointError: the file cannot be read, is of a newer version, or its header is not valid.
    """
    try:
        # Only the header is parsed, so that asking a large file what it is costs next to nothing.
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy or download it again") from error
    return from_metadata(metadata, path)


def read_config(raw: RawFile, path: Path) -> Any | None:
    """The config inside a model file, ``None`` where the file is not one of phidet's.

    Raises:
        CheckpointError: the file is of a newer version, or its header or config is not valid.
    """
    header = _native_header(raw, path)
    return None if header is None else header.config


def _native_header(raw: RawFile, path: Path) -> Header | None:
    header = from_metadata(raw.metadata, path)
    if header is None:
        return None
    # A key that this version does not know may change what the file means.
    unknown = sorted(raw.metadata.keys() - KEYS)
    if unknown:
        raise CheckpointError(f"{path} has a header that is not valid: unknown key {', '.join(unknown)}")
    return header


def assign(model: Model, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies the tensors of one of our own files into ``model``.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    expected = weights_of(model)
    known, missing, unexpected = same_names(tensors, expected)
    # Shapes are checked beside missing names, so that one message has everything that is wrong.
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": check_shapes(known, expected)}
    if any(problems.values()):
        raise mismatch_error(path, model.config.name, problems)
    model.load_state_dict(known, strict=False)  # not strict: the counters of batch norms are not stored
