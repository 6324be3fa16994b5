"""TensorFlow Serving's configuration files, protobuf messages in text format: which models are served, and batching."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from phidet.core.errors import ConfigError, UnknownNameError
from phidet.serve.configuration import Policy, Source, check_names
from phidet.serve.messages import message
from phidet.serve.models.batching import BatchingParameters

log = logging.getLogger("phidet.serve")
ServeSources = Callable[[Sequence[Source]], None]

_PACKAGE = "tensorflow.serving"


def read_model_config(path: Path) -> tuple[Source, ...]:
    """The models of a ``--model_config_file``. Relative base paths start at the file's folder.

    Raises:
        ConfigError: the file cannot be read, or has unknown fields or invalid values.
    """
    return read_sources(_parse(path, "ModelServerConfig"), str(path), path.parent)


def read_sources(config: Any, where: str, folder: Path) -> tuple[Source, ...]:
    """The models of a ``ModelServerConfig`` message.

    Args:
        config: the message.
        where: it comes from, for errors.
        folder: where relative base paths start.

    Raises:
        ConfigError: no model, or invalid values.
    """
    configs = config.model_config_list.config
    if not configs:
        raise ConfigError(f"{where}: expected model_config_list {{ config {{ … }} }}, got no model")
    sources = tuple(_source(one, where, folder) for one in configs)
    check_names(sources)
    for one in configs:
        if one.HasField("logging_config") or one.logging_configs:
            log.warning("%s: model %s: logging_config is ignored; see --access_log", where, one.name)
    return sources


async def follow_model_config(path: Path, seconds: float, served: Sequence[Source], serve: ServeSources) -> None:
    """Polls a ``--model_config_file``, and serves what it lists whenever it changes.

    An invalid file changes nothing; that is logged once, and it is tried again, as the folders that it names may not
    exist yet.

    Args:
        path: the file.
        seconds: between two reads.
        served: what is served now.
        serve: called with the models of the file.
    """
    logged = ""
    content: bytes | None = None  # of the file as it was used last
    while True:
        await asyncio.sleep(seconds)
        try:
            present = await asyncio.to_thread(_read_bytes, path)
            # Compared by content: modification times of mounted configuration files are unreliable.
            if present == content:
                continue
            sources = await asyncio.to_thread(read_model_config, path)
        except ConfigError as error:
            # The same fault is reported once, not at every poll.
            if str(error) != logged:
                log.error("%s. The models that are served stay as they are", error)
                logged = str(error)
            continue
        content, logged = present, ""
        if sources != served:
            log.info("%s has changed: phidet serves %s", path, ", ".join(source.name for source in sources))
            serve(sources)
            served = sources


def read_batching_parameters(path: Path) -> BatchingParameters:
    """The parameters of a ``--batching_parameters_file``: ``max_batch_size { value: 8 }`` and so on.

    ``allowed_batch_sizes``, ``pad_variable_length_inputs`` and ``thread_pool_name`` are accepted and need nothing here:
    a batch may have any size up to the largest, and all images have one shape when they come to the network.

    Raises:
        ConfigError: the file cannot be read, or has unknown fields or invalid values.
    """
    given = _parse(path, "BatchingParameters")
    values: dict[str, int] = {}
    for field, wrapped in given.ListFields():
        if field.name in BatchingParameters.__struct_fields__:
            if not wrapped.HasField("value"):
                raise ConfigError(f"{path}: expected {field.name} {{ value: NUMBER }}")
            values[field.name] = wrapped.value
    # With splitting, TensorFlow Serving executes parts of at most this size, which is what a batch is here.
    if given.enable_large_batch_splitting.value and given.HasField("max_execution_batch_size"):
        limits = (values.get("max_batch_size"), given.max_execution_batch_size.value)
        values["max_batch_size"] = min(limit for limit in limits if limit is not None)
    return BatchingParameters(**values)


def _source(config: Any, where: str, folder: Path) -> Source:
    for needed in ("name", "base_path"):
        if not getattr(config, needed):
            raise ConfigError(f"{where}: the model {config.name or config.base_path or '{ }'} has no {needed}")
    labels: dict[str, int] = {}
    for label in config.version_labels:
        if not (label.HasField("key") and label.HasField("value")):
            raise ConfigError(f"{where}: model {config.name}: expected version_labels {{ key: 'LABEL' value: NUMBER }}")
        labels[label.key] = label.value
    return Source(config.name, folder / config.base_path, _policy(config, where), labels)


def _policy(config: Any, where: str) -> Policy:
    if not config.HasField("model_version_policy"):
        return Policy(latest=1)
    policy = config.model_version_policy
    choices = policy.ListFields()
    # A oneof in TensorFlow Serving's .proto; the descriptor here does not declare it, so it is checked.
    if len(choices) != 1:
        raise ConfigError(f"{where}: model {config.name}: expected one of latest {{ }}, all {{ }}, specific {{ }}")
    if policy.HasField("latest"):
        count = policy.latest.num_versions if policy.latest.HasField("num_versions") else 1
        if count < 1:
            raise ConfigError(f"{where}: model {config.name}: num_versions must be 1 or more, got {count}")
        return Policy(latest=count)
    if policy.HasField("specific") and not policy.specific.versions:
        raise ConfigError(f"{where}: model {config.name}: specific {{ }} needs versions: NUMBER")
    return Policy(specific=tuple(policy.specific.versions))  # none of them is all of them


def _parse(path: Path, kind: str) -> Any:
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        return text_format.Parse(text, message(f"{_PACKAGE}.{kind}")())
    except text_format.ParseError as error:
        # "3:5 : 'the whole line': Expected …", where the line may be very long
        reason = re.sub(r"^\d+:\d+ : (?:'.*': )?(?=[A-Z])", "", str(error))
        unknown = re.search(rf'Message type "({re.escape(_PACKAGE)}\.[\w.]+)" has no field named "(\w+)"', reason)
        if unknown:
            known = tuple(field.name for field in message(unknown[1]).DESCRIPTOR.fields)
            raise UnknownNameError(f"field on line {error.GetLine()} of {path}:", unknown[2], known) from error
        raise ConfigError(f"{path}, line {error.GetLine()}, column {error.GetColumn()}: {reason}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
