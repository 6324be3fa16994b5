"""Accuracy over latency, one point for each model and runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from phidet.core.errors import ConfigError
from phidet.images.style import INK, PALETTE, new_figure, save_figure
from phidet.inference.bench.measure import Measurement

RUNTIMES = ("onnxruntime", "openvino", "litert", "torch")


def kind_of(path: Path) -> str:
    """The image format by a path's ending; PNG without one.

    Raises:
        ConfigError: Matplotlib does not write that format.
    """
    kind, known = path.suffix[1:].lower() or "png", FigureCanvasAgg.get_supported_filetypes()
    if kind not in known:
        raise ConfigError(f"cannot draw {path}: expected an ending of {', '.join(sorted(known))}")
    return kind


def save_latency_accuracy(points: Sequence[tuple[Measurement, float]], path: Path) -> None:
    """Plots (measurement, AP in 0…1) pairs as an image."""
    figure, axes = new_figure(7.2, 4.6)
    for runtime, colour in zip(RUNTIMES, PALETTE, strict=False):
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
    axes.set_xlabel("network, batch 1: median and 95 % of runs (ms)", color=INK)
    axes.set_ylabel("AP (%)", color=INK)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path, kind_of(path))
