"""Accuracy over latency, one point for each model and runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phidet.core.errors import ConfigError
from phidet.core.files import write_made
from phidet.inference.bench.measure import Measurement

INK, QUIET, GRID = "#1f2430", "#6b7280", "#e5e7eb"
COLOURS = {"onnxruntime": "#2563eb", "openvino": "#d97706", "litert": "#059669", "torch": "#dc2626"}


def kind_of(path: Path) -> str:
    """The kind of picture that a path's ending means; PNG without one.

    Raises:
        ConfigError: Matplotlib writes no such pictures.
    """
    kind, known = path.suffix[1:].lower() or "png", FigureCanvasAgg.get_supported_filetypes()
    if kind not in known:
        raise ConfigError(f"cannot draw {path}: expected an ending of {', '.join(sorted(known))}")
    return kind


def save_latency_accuracy(points: Sequence[tuple[Measurement, float]], path: Path) -> None:
    """Writes a picture of (measurement, AP in 0…1)."""
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for runtime, colour in COLOURS.items():
        of_runtime = [(m, ap) for m, ap in points if m.runtime == runtime]
        if of_runtime:
            x = [m.network.median for m, _ in of_runtime]
            spread = [max(0.0, m.network.p95 - m.network.median) for m, _ in of_runtime]
            y = [100 * ap for _, ap in of_runtime]
            axes.errorbar(x, y, xerr=[[0.0] * len(x), spread], fmt="o", color=colour, capsize=3, label=runtime)
    for m, ap in points:
        text = f"{Path(m.model).stem} {m.precision}"
        axes.annotate(text, (m.network.median, 100 * ap), (6, 6), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlim(left=0)
    axes.margins(x=0.25, y=0.25)
    axes.set_xlabel("network, batch 1: median and 95 % of runs (ms)", color=QUIET)
    axes.set_ylabel("AP (%)", color=QUIET)
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    kind = kind_of(path)
    write_made(path, lambda out: figure.savefig(out, format=kind))
