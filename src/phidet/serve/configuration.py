"""Which models are served, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from phidet.core.errors import ConfigError, UnknownNameError
from phidet.serve.camera import Camera
from phidet.serve.models.batching import BatchingParameters


class Policy(msgspec.Struct, frozen=True):
    """Which versions of a folder are served: the ``latest`` N, else those in ``specific``, else all."""

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
        # '/' and ':' separate the parts of TensorFlow Serving's paths.
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
            # Written so that NaN fails, too.
            if not getattr(self, field) > 0:
                raise ConfigError(f"limit {field} must be above 0, got {getattr(self, field)}")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a server.

    ``sources`` are what is served at the start; later changes of ``config_file``, where there is one, replace them.
    Without ``token`` the server is open to all; CORS is off unless ``cors``. An interval of 0 seconds polls
    once. ``cameras`` are watched. Below ``reload_root`` clients may choose what is served; without it they may not.
    ``prefix`` is the path that a proxy has before all others, as ``/detect``. Traces go to ``trace_address``, of
    ``trace_share`` of the requests.
    """

    sources: tuple[Source, ...]
    batching: BatchingParameters = BatchingParameters()
    limits: Limits = Limits()
    poll_seconds: float = 1.0
    config_file: Path | None = None
    config_poll_seconds: float = 1.0
    token: str | None = None
    cors: bool = False
    cameras: tuple[Camera, ...] = ()
    reload_root: Path | None = None
    prefix: str = ""
    trace_address: str | None = None
    trace_share: float = 1.0

    def __post_init__(self) -> None:
        check_names(self.sources)
        cameras = [camera.name for camera in self.cameras]
        if len(set(cameras)) != len(cameras):
            raise ConfigError(f"expected each camera's name once, got {', '.join(cameras)}")
        for camera in self.cameras:
            if camera.model and camera.model not in [source.name for source in self.sources]:
                raise UnknownNameError("model", camera.model, [source.name for source in self.sources])
        if self.prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.prefix):
            raise ConfigError(f"--prefix must be a path such as /detect, got {self.prefix!r}")
        if self.trace_address is not None and not re.match(r"https?://[^/?#]+", self.trace_address):
            raise ConfigError(f"--trace_address must be that of a collector, http://…, got {self.trace_address!r}")
        if not 0 <= self.trace_share <= 1:
            raise ConfigError(f"--trace_share must be 0 to 1, got {self.trace_share:g}")
        # An empty variable in a deployment must not silently open the server to all.
        if self.token is not None and not (self.token.strip() and self.token.isprintable()):
            raise ConfigError(
                "the server's token is empty or has characters that no header can carry: set PHIDET_SERVE_TOKEN to a "
                "secret, or remove it from the environment to serve without one"
            )
        for name, seconds in (
            ("file_system_poll_wait_seconds", self.poll_seconds),
            ("model_config_file_poll_wait_seconds", self.config_poll_seconds),
        ):
            if not seconds >= 0:
                raise ConfigError(f"{name} must be 0 (look once) or more, got {seconds}")


def check_names(sources: Sequence[Source]) -> None:
    """Raises ConfigError unless there is a model, and each name once."""
    names = [source.name for source in sources]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"expected at least one model and each name once, got {', '.join(names) or 'none'}")
