"""The plot of a reliability curve."""

from __future__ import annotations

from matplotlib.figure import Figure

from phidet.evaluation.plots import set_percent, set_titles
from phidet.evaluation.reliability import Reliability
from phidet.images.style import INK, PALETTE, new_figure

_GRID = "#EDEDED"


def reliability_figure(reliability: Reliability | None) -> Figure:
    """Precision over score, bin by bin, beside the diagonal on which scores are probabilities; below it the counts."""
    figure, axes = new_figure(6.4, 5.4)
    bins = [] if reliability is None else [b for b in reliability.bins if b.detections]
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    most = max((b.detections for b in bins), default=1)
    for b in bins:
        assert b.precision is not None
        # The share of all detections is the bar's width, so that rare scores do not look as important as common ones.
        width = max(0.012, (b.high - b.low) * 0.92 * (b.detections / most) ** 0.5)
        middle = (b.low + b.high) / 2
        axes.bar(middle, b.precision, width, color=PALETTE[0], zorder=3)
        axes.annotate(
            f"{b.detections:,}", (middle, b.precision), (0, 3), textcoords="offset points", ha="center", fontsize=8.5
        )
        axes.plot([b.low, b.high], [b.score, b.score], color=PALETTE[4], linewidth=2.4, zorder=4)
    if not bins:
        axes.text(0.5, 0.5, "no detections", ha="center", va="center", color="#B0B0B0", fontsize=16)
    ece = None if reliability is None else reliability.ece
    title = "Reliability of scores" if ece is None else f"Reliability of scores: calibration error {ece:.3f}"
    set_titles(axes, title, "bars: share that is right; lines: mean score; numbers: detections")
    axes.set(xlim=(0, 1), ylim=(0, 1.06), xlabel="score", ylabel="precision")
    set_percent(axes.xaxis, axes.yaxis)
    axes.grid(color=_GRID, zorder=0)
    return figure
