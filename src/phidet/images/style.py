"""Colours and fonts shared by plots and contact sheets (needs Matplotlib)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import ImageFont

from phidet.core.files import write_atomic_with

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Distinguishable for colour-blind readers (M. Okabe and K. Ito, without black); the last is too light for lines."""
INK = "#222222"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib and has Latin, Greek and Cyrillic letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of a size in inches, without global state, and its axes, without a frame at the top and the right."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path, kind: str = "png") -> Path:
    """Writes a Matplotlib figure, byte for byte the same for the same content; returns its path."""
    # The Matplotlib version in the metadata would make files differ between installations.
    metadata = {"Software": None} if kind == "png" else None
    return write_atomic_with(path, lambda out: figure.savefig(out, format=kind, dpi=120, metadata=metadata))
