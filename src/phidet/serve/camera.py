"""A camera or stream that the server watches."""

from __future__ import annotations

import msgspec

from phidet.core.addresses import without_password
from phidet.core.errors import ConfigError
from phidet.detections.tracking.places import Place, check_names
from phidet.images.source_kinds import is_live


class Camera(msgspec.Struct, frozen=True):
    """A camera or stream to watch.

    Attributes:
        name: in paths and on the page.
        address: as ``phidet track`` takes it; a name and a password in it are never shown.
        model: the served model that detects; "" for the first one.
        places: lines and zones to count at.
    """

    name: str
    address: str
    model: str = ""
    places: tuple[Place, ...] = ()

    def __post_init__(self) -> None:
        # The name is a part of a path, and of lines of the log.
        if not self.name or "/" in self.name or not self.name.isprintable():
            raise ConfigError(f"a camera's name must be printable and have no '/', got {self.name!r}")
        if not is_live(self.address):
            shown = without_password(self.address)
            raise ConfigError(f"camera {self.name}: expected webcam or an address (rtsp, http, …), got {shown!r}")
        check_names(self.places)

    def __repr__(self) -> str:
        return f"Camera({self.name!r}, {without_password(self.address)!r})"
