"""Options of a command in a file: read with ``--config``, written with ``--write-config`` and by training runs."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from phidet.cli.arguments import image_size, words
from phidet.core.errors import ConfigError, InputError, UnknownNameError
from phidet.core.files import write_atomic
from phidet.core.optional import optional_package

# What names code to import is never taken from a file.
_APART = frozenset({"help", "config", "write_config", "command", "run", "augment"})
_SUFFIXES = (".yaml", ".yml", ".toml", ".json")


def with_options_of_file(
    command: argparse.ArgumentParser, given: Sequence[str], lenient: argparse.Namespace
) -> list[str]:
    """``given``, the words behind the command's name, with the options of the file that they name.

    Args:
        command: its parser.
        given: the words.
        lenient: ``given`` as :func:`parse_leniently` understands it.

    Raises:
        InputError: the file cannot be read, or holds something else.
        UnknownNameError: the command has no such option.
        ConfigError: a value that an option cannot have.
    """
    content = _read(Path(lenient.config))
    by_name = _by_name(command)
    alone: list[str] = []
    options: list[str] = []
    for key, value in content.items():
        # Either spelling: files follow the command line or Python.
        name = key.replace("-", "_")
        if name not in by_name:
            raise UnknownNameError(f"option of {command.prog} in {lenient.config}", key, sorted(by_name))
        action = by_name[name]
        # What the command line says goes first, so that one file serves with small changes.
        if value is None or _is_given(action, given, lenient):
            continue
        try:
            (options if action.option_strings else alone).extend(_as_words(action, value))
        except ConfigError as error:
            raise ConfigError(f"{lenient.config}, {key}: {error}") from None
    # What stands alone comes first, since an option that takes many words would take it, too.
    end = given.index("--") if "--" in given else len(given)
    return [*alone, *given[:end], *options, *given[end:]]


def parse_leniently(command: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace:
    """What is given, where nothing need be; changes ``command``, which is of no other use afterwards."""
    for action in command._actions:
        action.required = False
        if not action.option_strings:
            action.nargs, action.default = "*", None
    return command.parse_known_args(list(given))[0]


def write_options(command: argparse.ArgumentParser, args: argparse.Namespace, to: str) -> None:
    """Writes the options that differ from their defaults, in the form of the file's suffix.

    Raises:
        ConfigError: another suffix.
        PhidetError: it cannot be written.
    """
    path = Path(to)
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"expected a file that ends in {', '.join(_SUFFIXES)}, got {path}")
    chosen = dict(_chosen(command, args))
    if path.suffix == ".json":
        content = msgspec.json.format(msgspec.json.encode(chosen))
    else:
        # Of numbers, texts and lists of them, the JSON of one line is YAML as well as TOML.
        sign = " = " if path.suffix == ".toml" else ": "
        lines = [f"{key}{sign}{msgspec.json.encode(value).decode()}\n" for key, value in chosen.items()]
        content = f"# {command.prog} --config {path.name}\n{''.join(lines)}".encode()
    write_atomic(path, content)


def _chosen(command: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name, action in _by_name(command).items():
        value = getattr(args, action.dest)
        # Defaults may change with a version; what nobody chose should follow them.
        if value == action.default or value is None:
            continue
        yield name.replace("_", "-"), _plain(action, value)


def _plain(action: argparse.Action, value: Any) -> Any:
    """A value as a file has it."""
    if action.type is image_size:
        return f"{value[0]}x{value[1]}"
    if isinstance(value, list | tuple):
        return [_plain(action, one) for one in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _by_name(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a command by their long names, and what stands alone by its own."""
    found = {}
    for action in command._actions:
        long = next((option[2:] for option in action.option_strings if option.startswith("--")), action.dest)
        name = long.replace("-", "_")
        if name not in _APART and action.help != argparse.SUPPRESS:
            found[name] = action
    return found


def _is_given(action: argparse.Action, given: Sequence[str], lenient: argparse.Namespace) -> bool:
    """Whether the command line has this option, abbreviated or not."""
    if not action.option_strings:
        return bool(getattr(lenient, action.dest, None))
    for word in given:
        name = word.partition("=")[0]
        if name in action.option_strings or word[:2] in action.option_strings:
            return True
        if len(name) > 2 and any(option.startswith(name) for option in action.option_strings):
            return True
    return False


def _as_words(action: argparse.Action, value: Any) -> list[str]:
    """An option and its value as a command line has them.

    Raises:
        ConfigError: it takes no such value.
    """
    option = action.option_strings[-1] if action.option_strings else ""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ConfigError(f"expected true or false, got {value!r}")
        return [option] if value else []
    values = value if isinstance(value, list) else _pairs(value) if isinstance(value, dict) else [value]
    texts = [_text(one) for one in values]
    # One value is joined to its option by an equals sign, since it may begin with a dash.
    if not option or action.nargs in ("+", "*"):
        return [option, *texts] if option else texts
    if action.type is words:
        texts = [",".join(texts)]
    elif action.type is image_size and len(texts) == 2:
        texts = ["x".join(texts)]
    if len(texts) != 1 and not isinstance(action, argparse._AppendAction):
        raise ConfigError(f"expected one value, got {len(texts)}")
    return [f"{option}={text}" for text in texts]


def _pairs(value: dict[str, Any], inside: str = "") -> list[str]:
    """``KEY=VALUE`` for each value in nested tables, with dots between keys."""
    found: list[str] = []
    for key, one in value.items():
        if isinstance(one, dict):
            found += _pairs(one, f"{inside}{key}.")
        else:
            found.append(f"{inside}{key}={one if isinstance(one, str) else msgspec.json.encode(one).decode()}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise ConfigError(f"expected a number or a text, got {value!r}")


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in _SUFFIXES:
        raise InputError(f"expected options in a file that ends in {', '.join(_SUFFIXES)}, got {path}")
    # YAML is an extra's; TOML and JSON are read without one.
    decoders: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": msgspec.json.decode}
    decode = decoders.get(path.suffix)
    broken: tuple[type[Exception], ...] = (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError)
    if decode is None:
        yaml = optional_package("yaml", "reading options from YAML", "data")
        decode, broken = yaml.safe_load, (*broken, yaml.YAMLError)
    try:
        content = decode(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except broken as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    # An empty YAML file, or one with comments only.
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected options with their values, as in: score: 0.5")
    return content
