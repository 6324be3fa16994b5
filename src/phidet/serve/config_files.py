"""TensorFlow Serving's configuration files, protobuf messages in text format: which models are served, and batching."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from phidet.core.errors import ConfigError, UnknownNameError
from phidet.serve.configuration import Policy, Source, check_names
from phidet.serve.models.batching import BatchingParameters

log = logging.getLogger("phidet.serve")
ServeSources = Callable[[Sequence[Source]], None]

# Message → field → type, "*" before a repeated one. Names and types are those of TensorFlow Serving's .proto files
# (model_server_config, logging_config, file_system_storage_path_source, session_bundle_config). In text, fields have no
# numbers; the package is our own, so that TensorFlow can live in the same process.
_MESSAGES = {
    "ModelServerConfig": {"model_config_list": "ModelConfigList"},
    "ModelConfigList": {"config": "*ModelConfig"},
    "ModelConfig": {
        "name": "string", "base_path": "string", "model_platform": "string", "model_type": "ModelType",
        "model_version_policy": "VersionPolicy", "version_labels": "*Label", "logging_config": "LoggingConfig",
        "logging_configs": "*LoggingConfig",
    },
    "VersionPolicy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Latest": {"num_versions": "uint32"},
    "All": {},
    "Specific": {"versions": "*int64"},
    "Label": {"key": "string", "value": "int64"},
    "LoggingConfig": {"log_collector_config": "LogCollectorConfig", "sampling_config": "SamplingConfig"},
    "LogCollectorConfig": {"type": "string", "filename_prefix": "string"},
    "SamplingConfig": {"sampling_rate": "double", "attributes": "int32"},
    "BatchingParameters": {
        "max_batch_size": "Int64Value", "batch_timeout_micros": "Int64Value", "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value", "thread_pool_name": "StringValue", "allowed_batch_sizes": "*int64",
        "pad_variable_length_inputs": "bool", "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "Int64Value": {"value": "int64"},
    "StringValue": {"value": "string"},
    "BoolValue": {"value": "bool"},
}  # fmt: skip
_ENUMS = {"ModelType": ("MODEL_TYPE_UNSPECIFIED", "TENSORFLOW", "OTHER")}
_PACKAGE = "phidet.serve"


def read_model_config(path: Path) -> tuple[Source, ...]:
    """The models of a ``--model_config_file``. Relative base paths start at the file's folder.

    Raises:
        ConfigError: the file cannot be read, or has unknown fields or invalid values.
    """
    configs = _parse(path, "ModelServerConfig").model_config_list.config
    if not configs:
        raise ConfigError(f"{path}: expected model_config_list {{ config {{ … }} }}, got no model")
    sources = tuple(_source(config, path) for config in configs)
    check_names(sources)
    for config in configs:
        if config.HasField("logging_config") or config.logging_configs:
            log.warning("%s: model %s: logging_config is ignored; see --access_log", path, config.name)
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
    message = _parse(path, "BatchingParameters")
    values: dict[str, int] = {}
    for field, wrapped in message.ListFields():
        if field.name in BatchingParameters.__struct_fields__:
            if not wrapped.HasField("value"):
                raise ConfigError(f"{path}: expected {field.name} {{ value: NUMBER }}")
            values[field.name] = wrapped.value
    # With splitting, TensorFlow Serving executes parts of at most this size, which is what a batch is here.
    if message.enable_large_batch_splitting.value and message.HasField("max_execution_batch_size"):
        limits = (values.get("max_batch_size"), message.max_execution_batch_size.value)
        values["max_batch_size"] = min(limit for limit in limits if limit is not None)
    return BatchingParameters(**values)


def _source(config: Any, path: Path) -> Source:
    for needed in ("name", "base_path"):
        if not getattr(config, needed):
            raise ConfigError(f"{path}: the model {config.name or config.base_path or '{ }'} has no {needed}")
    labels: dict[str, int] = {}
    for label in config.version_labels:
        if not (label.HasField("key") and label.HasField("value")):
            raise ConfigError(f"{path}: model {config.name}: expected version_labels {{ key: 'LABEL' value: NUMBER }}")
        labels[label.key] = label.value
    return Source(config.name, path.parent / config.base_path, _policy(config, path), labels)


def _policy(config: Any, path: Path) -> Policy:
    if not config.HasField("model_version_policy"):
        return Policy(latest=1)
    policy = config.model_version_policy
    choices = policy.ListFields()
    # A oneof in TensorFlow Serving's .proto; the descriptor here does not declare it, so it is checked.
    if len(choices) != 1:
        raise ConfigError(f"{path}: model {config.name}: expected one of latest {{ }}, all {{ }}, specific {{ }}")
    if policy.HasField("latest"):
        count = policy.latest.num_versions if policy.latest.HasField("num_versions") else 1
        if count < 1:
            raise ConfigError(f"{path}: model {config.name}: num_versions must be 1 or more, got {count}")
        return Policy(latest=count)
    if policy.HasField("specific") and not policy.specific.versions:
        raise ConfigError(f"{path}: model {config.name}: specific {{ }} needs versions: NUMBER")
    return Policy(specific=tuple(policy.specific.versions))  # none of them is all of them


def _parse(path: Path, kind: str) -> Any:
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    message = _message_class(kind)()
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        # "3:5 : 'the whole line': Expected …", where the line may be very long
        reason = re.sub(r"^\d+:\d+ : (?:'.*': )?(?=[A-Z])", "", str(error))
        unknown = re.search(rf'Message type "{re.escape(_PACKAGE)}\.(\w+)" has no field named "(\w+)"', reason)
        if unknown:
            known = tuple(_MESSAGES[unknown[1]])
            raise UnknownNameError(f"field on line {error.GetLine()} of {path}:", unknown[2], known) from error
        raise ConfigError(f"{path}, line {error.GetLine()}, column {error.GetColumn()}: {reason}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


@cache
def _message_class(kind: str) -> Any:
    """A message's class; in proto2 syntax, which distinguishes an absent field from one that is 0."""
    file = descriptor_pb2.FileDescriptorProto(name="phidet/serve/config_files.proto", package=_PACKAGE)
    for name, values in _ENUMS.items():
        file.enum_type.add(name=name).value.extend(
            descriptor_pb2.EnumValueDescriptorProto(name=value, number=i) for i, value in enumerate(values)
        )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, type_name) in enumerate(fields.items(), 1):
            bare = type_name.removeprefix("*")
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_OPTIONAL if bare == type_name else field.LABEL_REPEATED
            if bare in _MESSAGES or bare in _ENUMS:
                field.type = field.TYPE_ENUM if bare in _ENUMS else field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{bare}"
            else:
                field.type = field.Type.Value(f"TYPE_{bare.upper()}")
    # A pool of its own: the default one may hold TensorFlow's messages of the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{kind}"))
