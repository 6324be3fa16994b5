"""A run's curves as one picture."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from phidet.weights.native import write_atomically


def draw_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Losses, AP and learning rate over the epochs, as a PNG."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, ap, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    for key, label, colour in (("loss", "total", "#1f2933"), ("class_loss", "class", "#0072b2")):
        loss.plot(epochs, [row[key] for row in rows], label=label, color=colour)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    loss.legend(frameon=False)
    evaluated = [row for row in rows if "ap" in row]
    for key, label, colour in (("ap50", "AP50", "#e69f00"), ("ap", "AP", "#d55e00")):
        ap.plot([row["epoch"] for row in evaluated], [row[key] for row in evaluated], label=label, color=colour)
    ap.set(title="validation", xlabel="epoch", ylim=(0, 1))
    if evaluated:
        ap.legend(frameon=False, loc="lower right")
        best = max(evaluated, key=lambda row: row["ap"])
        ap.plot(best["epoch"], best["ap"], "o", color="#d55e00")
        ap.annotate(f"{best['ap']:.3f}", (best["epoch"], best["ap"]), xytext=(0, -14), textcoords="offset points")
    rate.plot(epochs, [row["rate"] for row in rows], color="#009e73")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, ap, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(path, content.getvalue())
