"""Plots of an evaluation: precision over recall, confusion matrix, AP by object size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from phidet.detections.draw import shorten
from phidet.evaluation.coco_metrics import CocoReport
from phidet.evaluation.curves import RECALLS, PrCurve
from phidet.evaluation.matching import MATCHED
from phidet.images.style import INK, PALETTE, new_figure

_LINES = PALETTE[:6]
_FAINT, _GRID = "#B0B0B0", "#EDEDED"
_MOST_NUMBERS = 30  # maximum number of classes for which a matrix shows numbers
_MOST_CLASSES = 100  # maximum number of classes that a matrix shows


def pr_figure(curves: Sequence[PrCurve], min_iou: float = MATCHED) -> Figure:
    """Precision over recall at IoU ``min_iou``, a thin line for each class that has objects, and their mean.

    Up to six classes have colours, names and a dot at the highest F1; of more, the best and the worst three have them.
    """
    shown = sorted((c for c in curves if c.objects), key=lambda c: (-c.envelope.mean(), -c.objects))
    figure, axes = new_figure(8.6, 6.0)
    # By AP, of which those that are named should show the range.
    named = shown
    if len(shown) > len(_LINES):
        named = [*shown[:3], *sorted(shown[3:], key=lambda c: (c.envelope.mean(), -c.objects))[:3]]
    for curve in shown:
        if curve not in named:
            axes.plot(RECALLS, curve.envelope, color=_FAINT, linewidth=0.7, alpha=0.6, zorder=2)
    for curve, colour in zip(named, _LINES, strict=False):
        axes.plot(RECALLS, curve.envelope, color=colour, linewidth=1.4, zorder=3, label=_legend(curve, min_iou))
        if curve.best is not None:
            at = curve.recall[curve.best], curve.precision[curve.best]
            axes.plot(*at, "o", color=colour, markersize=7, markeredgecolor="white", zorder=5, clip_on=False)
    if len(shown) > 1:
        mean = np.mean([curve.envelope for curve in shown], axis=0)
        label = f"mean of {len(shown)} classes\n{_ap(min_iou)} {mean.mean():.3f}"
        axes.plot(RECALLS, mean, color=INK, linewidth=3, zorder=4, label=label)
    if not shown:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center", color=_FAINT, fontsize=16)
    subtitle = "the best precision with at least this recall; dots: highest F1"
    set_titles(axes, f"Precision and recall at IoU {min_iou:g}", subtitle)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(color=_GRID, zorder=0)
    set_percent(axes.xaxis, axes.yaxis)
    if shown:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9.5, labelspacing=0.9)
    return figure


def _ap(min_iou: float) -> str:
    """ "AP50" of an IoU of 0.5."""
    return f"AP{100 * min_iou:g}"


def _legend(curve: PrCurve, min_iou: float) -> str:
    best = curve.best_score
    score = "nothing found" if best is None else f"best F1 {curve.f1.max():.2f} at score {best:.2f}"
    name = shorten(curve.class_name, lambda part: len(part) <= 28)
    return f"{name}\n{_ap(min_iou)} {curve.envelope.mean():.3f}, {score}"


def confusion_figure(matrix: npt.NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """A confusion matrix, each row as shares of its sum: of a detector's objects, or of a classifier's images.

    Up to 30 classes have numbers: shares, but counts in a detector's last row, the background, which has no number of
    objects to divide by. Of more than 100 classes, those that are most often part of a mistake are shown.

    Args:
        matrix: (C + 1, C + 1) of :func:`~phidet.evaluation.confusion.confusion_matrix`, or (C, C) of a classifier.
        class_names: of all C classes.
    """
    objects = len(matrix) > len(class_names)
    shown = _most_confused(matrix, len(class_names))
    named = [shorten(class_names[i], lambda part: len(part) <= 20) for i in shown]
    cells = np.array([*shown, *range(len(class_names), len(matrix))])
    sums = matrix.sum(axis=1, keepdims=True)[cells]
    matrix = matrix[np.ix_(cells, cells)]
    shares = np.divide(matrix, sums, out=np.zeros(matrix.shape), where=sums > 0)
    size, numbers = len(matrix), len(named) <= _MOST_NUMBERS
    # Inches and points for which numbers can be read; without numbers the matrix as a whole has 12 inches.
    cell = 0.9 if size <= 6 else 0.52 if numbers else max(0.1, 12 / size)
    font = 10.0 if size <= 6 else 8.5 if numbers else max(3.0, 66 * cell * 0.8)
    rows, columns = (named + ([last] if objects else []) for last in ("nothing", "missed"))
    longest = max(map(len, columns)) * font * 0.6 / 72  # approximate width in inches
    figure, axes = new_figure(max(5.0, size * cell + longest + 1.6), max(3.6, size * cell + longest + 1.2))
    # Two images on top of each other, each with NaN (transparent) where the other one shows.
    counted = np.full((size, 1), False)
    counted[-1] = objects
    shown = axes.imshow(np.where(counted, np.nan, shares), cmap="Blues", vmin=0, vmax=1)
    axes.imshow(np.where(counted, shares, np.nan), cmap="Greys", vmin=0, vmax=2)  # counts, not shares: another colour
    totals = [f"{n} ({total:,})" for n, total in zip(rows, sums[:, 0].tolist(), strict=True)]
    axes.set_yticks(range(size), totals, fontsize=font)
    axes.set_xticks(range(size), columns, fontsize=font, rotation=0 if longest < cell else 90)
    axes.set_xlabel("detected as" if objects else "predicted as", fontsize=11)
    axes.set_ylabel("object (count)" if objects else "true class (count)", fontsize=11)
    if numbers:
        for row, column in np.argwhere(matrix > 0).tolist():
            share = shares[row, column]
            text = f"{matrix[row, column]:,}" if counted[row] else f"{share:.2f}" if share >= 0.005 else "<.01"
            colour = "white" if share > 0.55 and not counted[row] else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)
    if objects:
        for side in (axes.axhline, axes.axvline):
            side(size - 1.5, color=INK, linewidth=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    what = "share of each row" + ("; last row: detections without an object" if objects else "")
    if len(named) < len(class_names):
        what += f"; the {len(named)} of {len(class_names):,} classes most often part of a mistake"
    set_titles(axes, "Confusion matrix", what)
    if not numbers:
        bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02, aspect=30, shrink=0.6)
        bar.outline.set_visible(False)
        set_percent(bar.ax.yaxis)
    return figure


def _most_confused(matrix: npt.NDArray[np.int64], count: int) -> list[int]:
    """The classes that a matrix shows, in their order."""
    # Classes that are never confused would fill the figure with empty rows.
    wrong = matrix - np.diag(matrix.diagonal())
    mistakes = (wrong.sum(axis=0) + wrong.sum(axis=1))[:count]
    return sorted(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES].tolist())


def size_figure(report: CocoReport) -> Figure:
    """AP and AR of all objects and by size."""
    figure, axes = new_figure(7.6, 4.2)
    groups = {"all": ("ap", "ar_max")} | {size: (f"ap_{size}", f"ar_{size}") for size in ("small", "medium", "large")}
    labels = (("AP, IoU 0.50…0.95", PALETTE[0]), (f"AR, {report.max_objects:,} detections", PALETTE[4]))
    for kind, (label, colour) in enumerate(labels):
        values = [getattr(report, metrics[kind]) for metrics in groups.values()]
        where = np.arange(len(groups)) + (kind - 0.5) * 0.38
        axes.bar(where, [value or 0 for value in values], 0.36, color=colour, label=label, zorder=2)
        for x, value in zip(where, values, strict=True):
            # No bar is not a bar of height 0: without objects of a size there is nothing to measure.
            if value is not None:
                axes.annotate(f"{value:.2f}", (x, value), (0, 3), textcoords="offset points", ha="center", fontsize=10)
    for x, (ap, _) in enumerate(groups.values()):
        if getattr(report, ap) is None:
            axes.text(x, 0.02, "no objects", ha="center", va="bottom", color="#777777", fontsize=10)
    names = ["all sizes", "small\nbelow 32² px", "medium\n32²…96² px", "large\nabove 96² px"]
    axes.set_xticks(range(len(groups)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.0)
    axes.grid(axis="y", color=_GRID, zorder=0)
    what = f"{report.images:,} images, {report.objects:,} objects, {len(report.classes):,} classes"
    set_titles(axes, "AP and AR by size of the objects", what)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def set_titles(axes: Any, title: str, subtitle: str) -> None:
    """A title and, smaller below it, what a plot shows."""
    axes.set_title(title, loc="left", pad=21, fontsize=13, weight="bold", color=INK)
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(subtitle, (0, 1), (0, 5), **place, fontsize=9.5, color="#555555")


def set_percent(*scales: Any) -> None:
    """Numbers from 0 to 1 as percentages."""
    for scale in scales:
        scale.set_major_formatter("{x:.0%}")
