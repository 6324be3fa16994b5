"""Every architecture by name: those of phidet, and those that other packages register.

Another package adds one in its ``pyproject.toml``; the object is an instance of
:class:`phidet.architectures.base.Architecture`::

    [project.entry-points."phidet.architectures"]
    centre-point = "my_package:CENTRE_POINT"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, cast

from phidet.architectures.base import Architecture
from phidet.core.errors import ConfigError, UnknownNameError

ENTRY_POINTS = "phidet.architectures"
BUILT_IN: dict[str, str] = {
    "efficientdet": "EFFICIENTDET",
    "setdet": "SETDET",
    "detr": "DETR",
    "classifier": "CLASSIFIER",
    "stylegan": "STYLEGAN",
    "relations": "RELATIONS",
}
"""Name of an architecture, and of its folder here → the object in its module ``architecture``. Imported when they are
asked for: a detector needs one of them, and the others would take a tenth of the time of ``phidet detect``."""


@cache
def registered() -> tuple[Architecture[Any], ...]:
    """The architectures of other packages; looked up once, and only if no built-in one matches.

    Raises:
        ConfigError: one of them cannot be loaded, is something else, or has a name that is taken.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, and rarely needed

    found: list[Architecture[Any]] = []
    # Everything wrong with one is said by its name: the user may not know that the package is installed.
    for entry in entry_points(group=ENTRY_POINTS):
        origin = f"the architecture {entry.name!r} of {entry.dist.name if entry.dist else entry.value}"
        try:
            architecture = entry.load()
        except Exception as error:  # another package's code may fail in any way
            raise ConfigError(f"{origin} cannot be loaded: {type(error).__name__}: {error}") from error
        if not isinstance(architecture, Architecture):
            raise ConfigError(f"{origin} is a {type(architecture).__name__}, expected an instance of Architecture")
        if architecture.name in {*BUILT_IN, *(other.name for other in found)}:
            raise ConfigError(f"{origin} is called {architecture.name!r}, as another architecture: rename one of them")
        found.append(architecture)
    return tuple(found)


@cache
def _load(name: str) -> Architecture[Any]:
    module = import_module(f"{__package__}.{name}.architecture")
    return cast("Architecture[Any]", getattr(module, BUILT_IN[name]))


def _built_in() -> Iterator[Architecture[Any]]:
    return map(_load, BUILT_IN)


_SOURCES: tuple[Callable[[], Iterable[Architecture[Any]]], ...] = (_built_in, registered)
"""In this order: the entry points of installed packages are loaded only if no built-in architecture matches."""


def _first(fits: Callable[[Architecture[Any]], bool]) -> Architecture[Any] | None:
    return next((architecture for known in _SOURCES for architecture in known() if fits(architecture)), None)


def all_architectures() -> tuple[Architecture[Any], ...]:
    """phidet's own first, then those of other packages."""
    return (*_built_in(), *registered())


def architecture_named(name: str) -> Architecture[Any]:
    """The architecture of that name.

    Raises:
        UnknownNameError: there is none; it may need a package that is not installed.
    """
    if name in BUILT_IN:
        return _load(name)
    for architecture in registered():
        if architecture.name == name:
            return architecture
    raise UnknownNameError("architecture", name, [architecture.name for architecture in all_architectures()])


def architecture_of(config: object) -> Architecture[Any]:
    """The architecture that ``config`` belongs to, by its type.

    Raises:
        ConfigError: it is no architecture's config.
    """
    found = _first(lambda architecture: isinstance(config, architecture.config_type))
    if found is not None:
        return found
    names = ", ".join(architecture.config_type.__name__ for architecture in all_architectures())
    raise ConfigError(f"expected the config of a network ({names}), got a {type(config).__name__}")


def publisher_of(name: str) -> Architecture[Any] | None:
    """The architecture that has a published model of that name, ``None`` if none has."""
    return _first(lambda architecture: name in architecture.published_names)


def publishes(name: str, says: str) -> bool:
    """Whether there is a published model of that name that predicts ``says`` ("boxes", "classes", …)."""
    architecture = publisher_of(name)
    return architecture is not None and says in architecture.says


def family_owner(family: str) -> Architecture[Any]:
    """The architecture whose law scales the family of that name.

    Raises:
        UnknownNameError: none does.
    """
    every = all_architectures()
    for architecture in every:
        if family in architecture.family_names:
            return architecture
    raise UnknownNameError("family", family, [name for architecture in every for name in architecture.family_names])


def published_names(says: str | None = None) -> list[str]:
    """Names of all published models; if ``says`` is given, of those that predict it ("boxes", "classes", …)."""
    return [
        name
        for architecture in all_architectures()
        if says is None or says in architecture.says
        for name in architecture.published_names
    ]


def published_config(name: str, says: str | None = None) -> Any:
    """The config of the published model of that name.

    Raises:
        UnknownNameError: there is none, or, if ``says`` is given, none that predicts it.
    """
    architecture = publisher_of(name)
    if architecture is None or (says is not None and says not in architecture.says):
        raise UnknownNameError("model", name, published_names(says))
    return architecture.published_config(name)
