"""Published weights as a network for ONNX Runtime: downloaded, read, folded and written without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from phidet.architectures.base import Architecture
from phidet.architectures.header import Header
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.registry import published_names, publisher_of
from phidet.architectures.weights import Weights
from phidet.core.errors import CheckpointError, MissingExtraError, UnknownNameError
from phidet.core.files import cache_dir, write_atomic
from phidet.weights.dialect_arrays import DialectArrays, adapted_config
from phidet.weights.read import read_arrays, recognise


class Published(NamedTuple):
    """A published detector.

    Attributes:
        name: of the model.
        file: of its weights.
        target: where the network for ONNX Runtime is, once it is made.
    """

    name: str
    file: PublishedFile
    target: Path


def published_detector(name: str) -> Published | None:
    """The published detector of that name; ``None`` if there is none, or PyTorch must convert it."""
    architecture = publisher_of(name)
    if architecture is None or "boxes" not in architecture.says:
        return None
    if type(architecture).lower_arrays is Architecture.lower_arrays:
        return None  # only PyTorch makes its operations
    try:
        file = architecture.pretrained_file(architecture.published_config(name), "coco", name)
    except UnknownNameError:
        return None  # a name of a network to train
    return None if file is None else Published(name, file, cache_dir() / f"{name}.onnx")


def write_published(published: Published, half: bool = False) -> Path:
    """Writes a published detector's network, after its weights were downloaded if they are not in the cache.

    The graph is the exporter's, from the same operations: :mod:`phidet.export.onnx_file`.

    Raises:
        DownloadError: the weights could not be fetched.
        CheckpointError: they are damaged, or need PyTorch to be converted.
        MissingExtraError: what writes the file is not installed.
    """
    try:
        from phidet.weights.download import fetch  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"downloading {published.name}", "published") from error
    path = fetch(published.file)
    content = network_of(path, published.name, half)
    write_atomic(published.target, content)
    return published.target


def network_of(path: str | Path, name: str, half: bool = False) -> bytes:
    """The ONNX network of the published detector ``name``, with the weights in ``path``, in any layout that is known.

    Raises:
        CheckpointError, MissingExtraError: as :func:`write_published`.
    """
    path = Path(path)
    try:
        from phidet.export.onnx_file import program_onnx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtraError(f"converting {name}", "published") from error
    architecture = publisher_of(name)
    if architecture is None:
        raise UnknownNameError("model", name, published_names("boxes"))
    weights, config = _weights_of(path, architecture, architecture.published_config(name))
    program = architecture.lower_arrays(config, Weights(weights))
    if program is None:
        raise MissingExtraError(f"converting {name}, which takes PyTorch,", "train")
    graph = program_onnx(program, Header(config, "fp16" if half else "fp32"))
    weights.check_all_used()  # now, as an architecture's own operations ask for theirs when they are written
    return bytes(graph.SerializeToString())


def _weights_of(path: Path, architecture: Architecture[Any], config: Any) -> tuple[DialectArrays, Any]:
    known = recognise(read_arrays(path))
    if known is None or known.dialect.name not in {dialect.name for dialect in architecture.dialects()}:
        raise CheckpointError(f"{path} holds no weights of {config.name} in a layout that phidet knows")
    config = adapted_config(architecture, config, known.tensors, known.dialect)
    return DialectArrays(known.tensors, known.dialect, config, path), config
