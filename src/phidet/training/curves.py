"""A run's curves as one plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from phidet.images.style import INK, PALETTE, save_figure

_LOSSES = (
    ("loss", "total", INK),
    ("class_loss", "class", PALETTE[0]),
    ("generator_loss", "generator", PALETTE[1]),
)


def draw_curves(
    rows: list[dict[str, float]], metrics: Mapping[str, str], path: Path, lower_is_better: bool = False
) -> None:
    """Losses, validation metrics (key → title, the deciding one first) and learning rate, as a PNG."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, quality, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    for key, label, colour in _LOSSES:
        # Each kind of training has some of them.
        if key not in rows[0]:
            continue
        loss.plot(epochs, [row[key] for row in rows], label=label, color=colour)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    loss.legend(frameon=False)
    # Epochs between two evaluations have no metrics; a line through the evaluated ones alone has no gaps.
    best_key = next(iter(metrics))
    evaluated = [row for row in rows if best_key in row]
    for (key, title), colour in zip(metrics.items(), (PALETTE[5], PALETTE[1]), strict=False):
        quality.plot([row["epoch"] for row in evaluated], [row[key] for row in evaluated], label=title, color=colour)
    quality.set(title="validation", xlabel="epoch")
    if not lower_is_better:  # shares of what could be right; distances have no upper end
        quality.set(ylim=(0, 1))
    if evaluated:
        quality.legend(frameon=False)
        best = (min if lower_is_better else max)(evaluated, key=lambda row: row[best_key])
        quality.plot(best["epoch"], best[best_key], "o", color=PALETTE[5])
        text = f"{best[best_key]:.3f}"
        quality.annotate(text, (best["epoch"], best[best_key]), xytext=(0, -14), textcoords="offset points")
    rate.plot(epochs, [row["rate"] for row in rows], color=PALETTE[2])
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, quality, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    save_figure(figure, path)
