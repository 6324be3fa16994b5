"""Rows of a class predictor that go on under the names of their classes, in whatever order or company those are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from phidet.architectures.rows import PredictorRows
from phidet.core.words import few


class Carried(NamedTuple):
    """Which classes of a model go on from a file.

    Attributes:
        classes: pairs of (the model's name, the file's name).
        fresh: the model's names that the file does not know.
    """

    classes: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        if not self.classes:
            return "no class of that name in the file"
        shown = [ours if ours == theirs else f"{ours} ← {theirs}" for ours, theirs in self.classes]
        text = f"{len(shown)} of {len(shown) + len(self.fresh)} classes carried over by name ({few(shown, 8)})"
        return text + (f", fresh: {few(self.fresh, 8)}" if self.fresh else "")


def same_classes(held: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Which of the names ``held`` each of the names ``wanted`` means; ``None`` where there is none.

    Capital letters, spaces, underscores and hyphens make no difference, unless an equal name is there.
    """
    exact = {name: i for i, name in reversed(list(enumerate(held)))}
    alike = {_key(name): i for i, name in reversed(list(enumerate(held)))}  # of several, the first
    return [exact.get(name, alike.get(_key(name))) for name in wanted]


def carry(held: Tensor, fresh: Tensor, rows: PredictorRows, matches: Sequence[int | None]) -> Tensor:
    """``fresh`` with those rows of ``held`` that belong to a class of the same name, and with the rows of no class.

    Args:
        held: (groups · (classes of the file + others), …).
        fresh: (groups · (classes of the model + others), …).
        rows: of both.
        matches: see :func:`same_classes`.
    """
    before = held.reshape(rows.groups, -1, *held.shape[1:])
    after = fresh.detach().clone().reshape(rows.groups, -1, *fresh.shape[1:])
    ours = [i for i, match in enumerate(matches) if match is not None]
    theirs = [match for match in matches if match is not None]
    after[:, ours] = before[:, theirs].to(after)
    if rows.others:
        after[:, -rows.others :] = before[:, -rows.others :].to(after)
    return after.reshape(fresh.shape)


def fits(held: Tensor, fresh: Tensor, rows: PredictorRows, classes: tuple[int, int]) -> bool:
    """Whether both tensors have the rows of that many ``classes``, of the file and of the model."""
    if not held.ndim or not fresh.ndim:
        return False
    sizes = [rows.groups * (count + rows.others) for count in classes]
    return [held.shape[0], fresh.shape[0]] == sizes and held.shape[1:] == fresh.shape[1:]


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
