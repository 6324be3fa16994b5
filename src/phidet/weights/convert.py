"""Turns a weight file of any known dialect into phidet's own, or one of ours into a dialect."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch

from phidet.architectures.costs import build_on_meta
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.weights.dialects import known_dialects
from phidet.weights.load import Source, load_into, open_source
from phidet.weights.mapping import check_shapes, to_ours, to_theirs, weights_of
from phidet.weights.native import save_model, write_atomically


class ConvertReport(NamedTuple):
    """What a conversion read and wrote; ``note`` is advice for readers of the new file, or ""."""

    source: Path
    kind: str
    model: str
    target: Path
    to: str
    tensors: int
    note: str


def convert(source: str | Path, target: str | Path, model: str | None = None, to: str = "phidet") -> ConvertReport:
    """Reads ``source``, whatever its dialect, and writes ``target``, atomically.

    Args:
        source: a weight file of phidet or of a known dialect.
        target: the file to write: ``.safetensors`` for phidet, ``.pth`` for the others.
        model: the published name, if the tensors match several (d6 and d7) or should be checked.
        to: "phidet" or a PyTorch dialect.

    Raises:
        UnknownNameError: no such model or dialect.
        ConfigError: the target has another suffix, or is the source itself.
        CheckpointError: the file cannot be read, matches no published model or several, or cannot be written.
    """
    source, target = Path(source), Path(target)
    if to not in (targets := writable_dialects()):
        raise UnknownNameError("dialect to write", to, targets)
    suffix = ".safetensors" if to == "phidet" else ".pth"
    if target.suffix != suffix:
        raise ConfigError(f"a {to} file is written as {suffix}, got {target.name!r}: name it {target.stem}{suffix}")
    opened = open_source(source)
    # After the source was opened: samefile needs both to exist. Links and other spellings of a path are one file.
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the file to read: the source stays as it is, so name another file to write")
    config = identify(opened, model)
    if model is not None and config.name != model:
        raise CheckpointError(f"{source} holds {config.name}, not {model}")
    # Through a network, so that whatever is written has been loaded once, with every tensor accounted for.
    network = architecture_of(config).build(config)
    load_into(network, opened)
    tensors = weights_of(network)
    if to == "phidet":
        save_model(network, target)
    else:
        buffer = io.BytesIO()
        torch.save(to_theirs(tensors, known_dialects()[to][1], config), buffer)
        write_atomically(target, buffer.getvalue())
    note = "" if to == "phidet" else architecture_of(config).dialect_note(config, known_dialects()[to][1])
    return ConvertReport(source, opened.kind, config.name, target, to, len(tensors), note)


def writable_dialects() -> tuple[str, ...]:
    """Names of what :func:`convert` writes: phidet's own file and the PyTorch dialects."""
    return ("phidet", *(name for name, (_, dialect) in known_dialects().items() if dialect.writable))


def identify(source: Source, model: str | None = None) -> Any:
    """The config inside the file, or that of the one published model that its tensors match.

    Raises:
        CheckpointError: none matches, or several do.
    """
    if source.config is not None:
        return source.config
    architecture = source.architecture
    if model is not None:
        if model not in architecture.published_names:
            raise UnknownNameError("model", model, architecture.published_names)
        return _like(source, model)
    # All are tried: some published models differ in their input size only, which the tensors do not show.
    fitting = [config for name in architecture.published_names if _fits(source, config := _like(source, name))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise CheckpointError(
            f"{source.path} ({source.kind}) fits no published model: build its config and load it with "
            "create_model(config, pretrained=...), or name the nearest model to see what differs"
        )
    found = " and ".join(config.name for config in fitting)
    raise CheckpointError(
        f"{source.path} ({source.kind}) matches {found} equally well: say which one it is (--model NAME)"
    )


def _like(source: Source, name: str) -> Any:
    return source.adapt(source.architecture.published_config(name))


def _fits(source: Source, config: Any) -> bool:
    if source.dialect is None:
        return False
    # Shapes suffice for the comparison: on the meta device even D7 is built without memory.
    like = weights_of(build_on_meta(config))
    mapped = to_ours(source.tensors, source.dialect, config, like)
    complete = not mapped.missing and len(mapped.tensors) == len(like)
    return complete and not mapped.unexpected and not check_shapes(mapped.tensors, like)
