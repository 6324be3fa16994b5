"""Which models are served and how: from flags, or from TensorFlow Serving's configuration files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from phidet.core.errors import ConfigError
from phidet.serve.models.batching import BatchingParameters
from phidet.serve.prototext import Field, check_names, integer, message, parse, string

_CONFIG_FIELDS = ("name", "base_path", "model_platform", "model_version_policy", "version_labels")
_BATCHING_FIELDS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")


class Policy(msgspec.Struct, frozen=True):
    """Which versions of a folder are to be served: the ``latest`` so many, else those in ``specific``, else all."""

    latest: int = 0
    specific: tuple[int, ...] = ()

    def choose(self, versions: list[int]) -> list[int]:
        """Those of ``versions`` that are wanted, ascending."""
        ascending = sorted(versions)
        if self.latest:
            return ascending[-self.latest :]
        return [v for v in ascending if v in self.specific] if self.specific else ascending


class Source(msgspec.Struct, frozen=True):
    """A model by name: the folder of its version folders, which of them, and names for some of them."""

    name: str
    base_path: Path
    policy: Policy = Policy(latest=1)
    labels: dict[str, int] = {}

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/:") or not self.name.isprintable():
            raise ConfigError(f"a model's name must be printable and have neither '/' nor ':', got {self.name!r}")
        if not self.base_path.is_dir():
            raise ConfigError(
                f"model {self.name}: there is no folder {self.base_path}; 'phidet publish MODEL {self.base_path}' "
                "makes it and its first version"
            )


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may ask for. Sizes in bytes, times in seconds."""

    body_bytes: int = 16 << 20
    bodies_in_flight_bytes: int = 256 << 20
    image_pixels: int = 32_000_000
    request_pixels: int = 64_000_000
    instances: int = 64
    request_seconds: float = 30.0
    idle_seconds: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not getattr(self, field) > 0:
                raise ConfigError(f"limit {field} must be above 0, got {getattr(self, field)}")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a server. Without ``token`` it is open to all; CORS is off unless ``cors``."""

    sources: tuple[Source, ...]
    batching: BatchingParameters = BatchingParameters()
    limits: Limits = Limits()
    poll_seconds: float = 1.0
    token: str | None = None
    cors: bool = False

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"expected at least one model and each name once, got {', '.join(names) or 'none'}")
        if self.token is not None and not (self.token.strip() and self.token.isprintable()):
            raise ConfigError(
                "the server's token is empty or has characters that no header can carry: set PHIDET_SERVE_TOKEN to a "
                "secret, or remove it from the environment to serve without one"
            )
        if not self.poll_seconds >= 0:
            raise ConfigError(f"file_system_poll_wait_seconds must be 0 (look once) or more, got {self.poll_seconds}")


def read_model_config(path: Path) -> tuple[Source, ...]:
    """The models of a ``--model_config_file``. Relative base paths start at the file's folder.

    Raises:
        ConfigError: the file cannot be read, or says something that is not known or not possible.
    """
    top = check_names(parse(_text(path), path), path, ("model_config_list",))
    configs = [entry for field in top for entry in message(field, path, ("config",))]
    if not configs:
        raise ConfigError(f"{path}: expected model_config_list {{ config {{ … }} }}, got no model")
    return tuple(_source(field, path) for field in configs)


def read_batching_parameters(path: Path) -> BatchingParameters:
    """The parameters of a ``--batching_parameters_file``: ``max_batch_size { value: 8 }`` and so on.

    Raises:
        ConfigError: the file cannot be read, or says something that is not known or not possible.
    """
    values: dict[str, int] = {}
    for field in check_names(parse(_text(path), path), path, _BATCHING_FIELDS):
        inner = message(field, path, ("value",))
        if len(inner) != 1:
            raise ConfigError(f"{path}, line {field.line}: expected {field.name} {{ value: NUMBER }}")
        values[field.name] = integer(inner[0], path)
    return BatchingParameters(**values)


def _source(config: Field, path: Path) -> Source:
    fields = {field.name: field for field in message(config, path, _CONFIG_FIELDS)}
    for needed in ("name", "base_path"):
        if needed not in fields:
            raise ConfigError(f"{path}, line {config.line}: this config has no {needed}")
    labels: dict[str, int] = {}
    for field in message(config, path, _CONFIG_FIELDS):
        if field.name == "version_labels":
            pair = {part.name: part for part in message(field, path, ("key", "value"))}
            if pair.keys() != {"key", "value"}:
                raise ConfigError(
                    f"{path}, line {field.line}: expected version_labels {{ key: 'LABEL' value: NUMBER }}"
                )
            labels[string(pair["key"], path)] = integer(pair["value"], path)
    policy = _policy(fields["model_version_policy"], path) if "model_version_policy" in fields else Policy(latest=1)
    return Source(
        name=string(fields["name"], path),
        base_path=path.parent / string(fields["base_path"], path),
        policy=policy,
        labels=labels,
    )


def _policy(field: Field, path: Path) -> Policy:
    choices = message(field, path, ("latest", "all", "specific"))
    if len(choices) != 1:
        raise ConfigError(f"{path}, line {field.line}: expected one of latest {{ }}, all {{ }}, specific {{ }}")
    choice = choices[0]
    if choice.name == "all":
        message(choice, path, ())
        return Policy()
    if choice.name == "latest":
        counts = [integer(inner, path) for inner in message(choice, path, ("num_versions",))] or [1]
        if counts[-1] < 1:
            raise ConfigError(f"{path}, line {choice.line}: num_versions must be 1 or more, got {counts[-1]}")
        return Policy(latest=counts[-1])
    versions = tuple(integer(inner, path) for inner in message(choice, path, ("versions",)))
    if not versions:
        raise ConfigError(f"{path}, line {choice.line}: specific {{ }} needs versions: NUMBER")
    return Policy(specific=versions)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
