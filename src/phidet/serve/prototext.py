"""TensorFlow Serving's configuration files: protobuf's text form, as far as they use it.

text    = { field }
field   = name ":" scalar | name [":"] "[" scalar { "," scalar } "]" | name [":"] ( "{" text "}" | "<" text ">" )
scalar  = string { string } | integer | word          fields may be followed by "," or ";", comments begin with "#"
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from phidet.core.errors import ConfigError, UnknownNameError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<integer>-?\d+(?![\w.]))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[{}<>:,;\[\]])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 16


class Token(NamedTuple):
    """A word of the text; ``kind`` is the name of its group above."""

    kind: str
    text: str
    line: int


class Field(NamedTuple):
    """One field. ``value`` is a string, an integer, a word (booleans, enumerations), or a message's fields."""

    name: str
    value: str | int | list[Field]
    line: int


def parse(text: str, source: Path) -> list[Field]:
    """The fields of a whole file.

    Raises:
        ConfigError: not of this grammar; names file and line.
    """
    reader = _Reader(list(_tokens(text, source)), source)
    return reader.fields(end="", depth=0)


def message(field: Field, source: Path, known: tuple[str, ...]) -> list[Field]:
    """The fields inside ``field``, all of them in ``known``.

    Raises:
        ConfigError: it is not a message.
        UnknownNameError: a field that is not known.
    """
    if not isinstance(field.value, list):
        raise ConfigError(f"{source}, line {field.line}: {field.name} must be a message in {{ }}, got {field.value!r}")
    return check_names(field.value, source, known)


def check_names(fields: list[Field], source: Path, known: tuple[str, ...]) -> list[Field]:
    """``fields``, if all of them are ``known``.

    Raises:
        UnknownNameError: one that is not.
    """
    for field in fields:
        if field.name not in known:
            raise UnknownNameError(f"field on line {field.line} of {source}:", field.name, known)
    return fields


def string(field: Field, source: Path) -> str:
    """The value of a string field.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(field.value, str):
        raise ConfigError(f"{source}, line {field.line}: {field.name} must be a string in quotes, got {field.value!r}")
    return field.value


def integer(field: Field, source: Path) -> int:
    """The value of an integer field.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(field.value, int):
        raise ConfigError(f"{source}, line {field.line}: {field.name} must be an integer, got {field.value!r}")
    return field.value


def _tokens(text: str, source: Path) -> Iterator[Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigError(f"{source}, line {line}: cannot read {text[position : position + 20].splitlines()[0]!r}")
        kind = match.lastgroup or ""
        if kind != "space":
            yield Token(kind, match.group(), line)
        line += match.group().count("\n")
        position = match.end()
    yield Token("end", "", line)


class _Reader:
    def __init__(self, tokens: list[Token], source: Path) -> None:
        self.tokens = tokens
        self.source = source
        self.at = 0

    def fields(self, end: str, depth: int) -> list[Field]:
        """Fields up to the closing mark ``end``, which is taken as well."""
        if depth > _MAX_DEPTH:
            raise self.fault(f"at most {_MAX_DEPTH} messages inside each other")
        found: list[Field] = []
        while self.tokens[self.at].text != end:
            name = self.take("word", "a field's name" + (f" or '{end}'" if end else ""))
            colon = self.skip(":")
            opening = self.tokens[self.at].text
            if opening in _CLOSING:
                self.at += 1
                found.append(Field(name.text, self.fields(_CLOSING[opening], depth + 1), name.line))
            elif opening == "[" and colon:
                found.extend(Field(name.text, value, name.line) for value in self.listed())
            elif colon:
                found.append(Field(name.text, self.scalar(), name.line))
            else:
                raise self.fault(f"':' or '{{' after {name.text}")
            if not self.skip(","):
                self.skip(";")
        self.at += bool(end)
        return found

    def listed(self) -> list[str | int]:
        self.at += 1
        values: list[str | int] = []
        while not self.skip("]"):
            if values and not self.skip(","):
                raise self.fault("',' or ']'")
            values.append(self.scalar())
        return values

    def scalar(self) -> str | int:
        token = self.tokens[self.at]
        if token.kind == "integer":
            self.at += 1
            return int(token.text)
        if token.kind == "word":
            self.at += 1
            return token.text
        parts = []
        while self.tokens[self.at].kind == "string":
            try:
                parts.append(str(ast.literal_eval(self.tokens[self.at].text)))
            except (ValueError, SyntaxError) as error:
                raise self.fault("a string without unknown escapes") from error
            self.at += 1
        if not parts:
            raise self.fault("a value")
        return "".join(parts)

    def take(self, kind: str, what: str) -> Token:
        token = self.tokens[self.at]
        if token.kind != kind:
            raise self.fault(what)
        self.at += 1
        return token

    def skip(self, mark: str) -> bool:
        if self.tokens[self.at].text != mark:
            return False
        self.at += 1
        return True

    def fault(self, expected: str) -> ConfigError:
        token = self.tokens[self.at]
        return ConfigError(f"{self.source}, line {token.line}: expected {expected}, got {token.text or 'the end'!r}")
