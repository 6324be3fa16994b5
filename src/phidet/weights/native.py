"""phidet's own model file: one ``.safetensors`` with the config inside, so with classes and preprocessing.

The metadata holds ``format`` = "phidet", ``version``, ``kind`` ("detector" or "classifier") and ``config`` (JSON).
A file of a newer version, with a key that is not known, or with other tensors than the config builds, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from safetensors.torch import save
from torch import Tensor

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import CheckpointError, ConfigError, PhidetError
from phidet.core.files import write_whole
from phidet.core.structs import from_json, to_json
from phidet.weights.mapping import check_shapes, misfit, weights_of
from phidet.weights.read import RawFile, read_tensors

VERSION = 1


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata of a model file."""

    format: Literal["phidet"]
    version: str
    kind: Literal["detector", "classifier"]
    config: str


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is either there as a whole or not at all; an existing one stays until then.

    Raises:
        CheckpointError: the folder does not exist, is not writable, or the disk is full.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}. Make it first")
    try:
        write_whole(path, content)
    except PhidetError as error:
        raise CheckpointError(f"{error}. Nothing was changed") from error


def save_model(model: EfficientDet | Classifier, path: str | Path) -> None:
    """Writes ``model`` with its config to ``path``, atomically. The same model gives the same bytes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    kind: Literal["detector", "classifier"] = "detector" if isinstance(model, EfficientDet) else "classifier"
    header = Header(format="phidet", version=str(VERSION), kind=kind, config=to_json(model.config))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights_of(model).items()}
    write_atomically(path, _with_sorted_header(save(tensors, metadata=msgspec.to_builtins(header))))


def _with_sorted_header(content: bytes) -> bytes:
    """safetensors shuffles the metadata at every call; sorted, the same model gives the same bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = msgspec.json.encode(msgspec.json.decode(content[8:end]), order="deterministic")
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[end:]))


def load_model(path: str | Path) -> EfficientDet | Classifier:
    """The model that the file holds, in evaluation mode.

    Raises:
        CheckpointError: not a phidet model file (convert others with ``phidet convert``), damaged, newer than this
            phidet, or inconsistent.
    """
    path = Path(path)
    raw = read_tensors(path)
    config = read_config(raw, path)
    if config is None:
        raise CheckpointError(
            f"{path} is not a phidet model file: make one of it with 'phidet convert {path.name} model.safetensors', "
            "or give it as create_model(..., pretrained=...)"
        )
    model = EfficientDet(config) if isinstance(config, ModelConfig) else Classifier(config)
    assign(model, raw.tensors, path)
    return model.eval()


def read_config(raw: RawFile, path: Path) -> ModelConfig | ClassifierConfig | None:
    """The config inside a model file, ``None`` where the file is not one of phidet's.

    Raises:
        CheckpointError: the file is of a newer version, or its header or config is not valid.
    """
    if raw.metadata.get("format") != "phidet":
        return None
    version = raw.metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this phidet reads up to {VERSION}: pip install -U phidet"
        )
    try:
        header = msgspec.convert(raw.metadata, Header)
        if header.kind == "detector":
            return from_json(header.config, ModelConfig)
        return from_json(header.config, ClassifierConfig)
    except (msgspec.ValidationError, ConfigError) as error:
        raise CheckpointError(f"{path} has a header that is not valid: {error}") from error


def assign(model: EfficientDet | Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies the tensors of one of our own files into ``model``.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    expected = weights_of(model)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    known = {name: tensor for name, tensor in tensors.items() if name in expected}
    wrong = check_shapes(known, expected)
    if missing or unexpected or wrong:
        problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
        raise misfit(path, model.config.name, problems)
    model.load_state_dict(dict(known), strict=False)
