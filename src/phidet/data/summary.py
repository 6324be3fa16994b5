"""A data set in one line: what is in it, and what was left out of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np

from phidet.core.words import count, few
from phidet.data.dataset import Dataset, Problem

log = logging.getLogger("phidet")

LOSSES = frozenset(
    {
        *("image missing", "image unreadable", "image repeated", "label unreadable"),
        *("class unknown", "box invalid", "box empty", "box outside"),
    }
)
"""Kinds of problems through which images or objects are lost; others are corrected, or informative only."""
_EXAMPLES = 3  # kept of each kind
_LINES = 8  # of details in the log
_NAMES = 6  # of classes in a line


class ProblemGroup(msgspec.Struct, frozen=True):
    """Problems of one kind.

    Attributes:
        kind: as :attr:`Problem.kind <phidet.data.dataset.Problem>`.
        what: the first of them in a sentence.
        count: how many there are.
        examples: file, and line, index or id in it, of the first few.
    """

    kind: str
    what: str
    count: int
    examples: tuple[str, ...]


class DataSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a data set.

    Attributes:
        name: of the split.
        images: that can be used.
        backgrounds: images without objects.
        objects: without crowd regions, which can be neither learned nor measured.
        crowds: regions of many objects (COCO's ``iscrowd``).
        most_objects: in one image.
        classes: that were asked for.
        classes_without_objects: their names.
        left_out: what was lost, by kind; of unknown classes, by class.
        notes: what was set right, or is worth knowing, by kind.
    """

    name: str
    images: int
    backgrounds: int
    objects: int
    crowds: int
    most_objects: int
    classes: int
    classes_without_objects: tuple[str, ...]
    left_out: tuple[ProblemGroup, ...]
    notes: tuple[ProblemGroup, ...]

    def line(self, classify: bool = False) -> str:
        """Everything but the details, for people; ``classify`` where the class is that of the whole image."""
        content = count(self.images, "image")
        if not classify:
            content += f" ({count(self.backgrounds, 'background')}), {count(self.objects, 'object')}"
            content += f" and {count(self.crowds, 'crowd region')}" if self.crowds else ""
        lost = ", ".join(f"{kind} {number:,}" for kind, number in self._lost_by_kind().items())
        classes = count(self.classes, "class")
        return f"{self.name}: {content} of {classes}; " + (f"left out: {lost}" if lost else "nothing left out")

    def _lost_by_kind(self) -> dict[str, int]:
        lost: dict[str, int] = defaultdict(int)
        for group in self.left_out:
            lost[group.kind] += group.count
        return lost


def summarise_data(dataset: Dataset) -> DataSummary:
    """Counts what is in ``dataset`` and what its reader left out."""
    truth = dataset.all_annotations
    groups = _grouped(dataset.problems)
    per_class = np.bincount(truth.class_ids[~truth.crowd], minlength=len(dataset.class_names))
    # Crowd regions are neither objects to learn nor background, so they are counted apart.
    crowds = np.bincount(np.repeat(np.arange(len(dataset)), dataset.counts), truth.crowd, len(dataset)).astype(int)
    return DataSummary(
        name=dataset.name,
        images=len(dataset),
        backgrounds=int((dataset.counts == 0).sum()),
        objects=int(per_class.sum()),
        crowds=int(truth.crowd.sum()),
        most_objects=int((dataset.counts - crowds).max(initial=0)),
        classes=len(dataset.class_names),
        classes_without_objects=tuple(dataset.class_names[c] for c in np.flatnonzero(per_class == 0).tolist()),
        left_out=tuple(group for group in groups if group.kind in LOSSES),
        notes=tuple(group for group in groups if group.kind not in LOSSES),
    )


def _grouped(problems: Sequence[Problem]) -> list[ProblemGroup]:
    """By kind, the most frequent first; unknown classes one by one."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        # All objects of an unknown class share one sentence; other sentences name the single image or box.
        groups[problem.kind, problem.what if problem.kind == "class unknown" else ""].append(problem)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [
        ProblemGroup(kind, found[0].what, len(found), tuple(problem.where for problem in found[:_EXAMPLES]))
        for (kind, _), found in ordered
    ]


def log_summary(summary: DataSummary, data: str, classify: bool = False) -> None:
    """Logs :meth:`DataSummary.line`, then each kind of problem with its first example, and classes without objects."""
    # One line always; details are of what the user may want to correct.
    log.info("%s", summary.line(classify))
    groups = (*summary.left_out, *summary.notes)
    _log_groups(groups)
    if not classify and sum(group.count for group in groups) > len(groups[:_LINES]):
        log.warning("  'phidet doctor %s' lists all of them", data)
    missing = summary.classes_without_objects
    if missing and summary.objects:
        log.warning("  no objects of %s", some_of(missing, summary.classes))


def log_left_out(dataset: Dataset) -> None:
    """Logs each kind of problem of images without labels, with its first example."""
    _log_groups(summarise_data(dataset).left_out)


def _log_groups(groups: Sequence[ProblemGroup]) -> None:
    for group in groups[:_LINES]:
        more = f" (and {group.count - 1:,} more)" if group.count > 1 else ""
        level = logging.WARNING if group.kind in LOSSES else logging.INFO
        log.log(level, "  %s: %s%s", group.examples[0], group.what, more)


def some_of(names: Sequence[str], of: int) -> str:
    """The first of ``names``, after how many there are of how many: "2 of 3 classes: ant, bee"."""
    return f"{len(names):,} of {count(of, 'class')}: {few(names, _NAMES)}"
