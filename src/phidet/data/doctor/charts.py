"""Histograms of a data set: classes, box sizes, aspects, objects per image, and anchor recall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from phidet.data.dataset import Dataset
from phidet.data.doctor.advice import size_text
from phidet.data.doctor.facts import Report, Trial
from phidet.data.doctor.labels import FEW_OBJECTS, object_scales
from phidet.data.doctor.view import NetworkView
from phidet.detections.boxes import area
from phidet.images.style import INK, PALETTE, new_figure, save_figure

MOST_CLASSES = 100
_MOST_BOXES = 100_000


def write_charts(report: Report, datasets: Mapping[str, Dataset], network: NetworkView, out: Path) -> list[Path]:
    """Writes ``classes.png`` and ``boxes.png``."""
    written = []
    if report.classes.names:
        written.append(save_figure(_classes(report), out / "classes.png"))
    if any(len(dataset.all_annotations.areas) for dataset in datasets.values()):
        written.append(save_figure(_boxes(datasets, network, report), out / "boxes.png"))
    return written


def _classes(report: Report) -> Figure:
    """A row for each class, a dot for each split."""
    splits = [split for split in report.splits if not split.made_of]
    total = {name: sum(split.classes.get(name, 0) for split in splits) for name in report.classes.names}
    names = sorted(total, key=lambda name: -total[name])
    # The most frequent and the rarest classes: what is special is at the ends.
    shown = names if len(names) <= MOST_CLASSES else [*names[: MOST_CLASSES // 2], *names[-MOST_CLASSES // 2 :]]
    figure, axes = new_figure(9, 1.6 + 0.22 * len(shown))
    rows = np.arange(len(shown))
    columns = [np.array([split.classes.get(name, 0) for name in shown]) for split in splits]
    axes.hlines(rows, np.min(columns, axis=0), np.max(columns, axis=0), color="#D9D9D9", linewidth=2, zorder=1)
    for i, (split, counts) in enumerate(zip(splits, columns, strict=True)):
        axes.scatter(counts, rows, s=46, color=PALETTE[i % len(PALETTE)], label=split.name, zorder=2, clip_on=False)
    # Class counts span orders of magnitude, and may be 0, which a plain logarithm cannot show.
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(0, max(10, max(total.values(), default=0)) * 1.3)
    axes.axvline(FEW_OBJECTS, color="#8A8A8A", linestyle=":", linewidth=1.2)
    axes.set_yticks(rows, shown)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    left_out = f"; {len(names) - len(shown)} in the middle left out" if len(shown) < len(names) else ""
    _style(axes, f"Objects by class{left_out}", f"objects; left of the dotted line, fewer than {FEW_OBJECTS}")
    axes.grid(axis="x", color="#EDEDED", zorder=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _boxes(datasets: Mapping[str, Dataset], network: NetworkView, report: Report) -> Figure:
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    (sizes, aspects), (objects, recall) = figure.subplots(2, 2)
    scaled = {name: _at_input(dataset, network.image_size_hw) for name, dataset in datasets.items()}
    scaled = {name: boxes for name, boxes in scaled.items() if len(boxes)}
    size = size_text(network.image_size_hw)

    # Four bins from each size to its double, in which networks double their strides.
    edges = 2.0 ** np.arange(0, np.log2(max(network.image_size_hw)) + 0.5, 0.25)
    _steps(sizes, {name: np.sqrt(area(boxes)) for name, boxes in scaled.items()}, edges)
    sizes.set_xscale("log", base=2)
    sizes.xaxis.set_major_formatter("{x:g}")
    for border in (32, 96):
        sizes.axvline(border, color="#8A8A8A", linestyle=":", linewidth=1.2)
    for low, high, text in ((edges[0], 32, "small"), (32, 96, "medium"), (96, edges[-1], "large")):
        place = np.sqrt(low * high), 0.98
        sizes.text(*place, text, transform=sizes.get_xaxis_transform(), ha="center", va="top", color="#555555")
    sizes.set_ylim(top=sizes.get_ylim()[1] * 1.08)
    _style(sizes, f"Size of boxes in an input of {size}", "√area, pixels")
    shapes = {name: (b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]) for name, b in scaled.items()}
    _steps(aspects, shapes, 2.0 ** np.arange(-3, 3.1, 0.25))
    aspects.set_xscale("log", base=2)
    for aspect in network.anchors.aspects if network.anchors else ():
        aspects.axvline(aspect, color="#8A8A8A", linestyle=":", linewidth=1.2)
    aspects.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["≤ ⅛", "¼", "½", "1", "2", "4", "≥ 8"])
    _style(aspects, "Shape of boxes", "width / height" + ("; dotted: the anchors'" if network.anchors else ""))

    counts = {name: dataset.counts for name, dataset in datasets.items()}
    most = max(int(values.max()) for values in counts.values())
    step = max(1, -(-(most + 1) // 40))
    _steps(objects, counts, np.arange(0, most + step + 1, step) - 0.5)
    objects.xaxis.set_major_locator(MaxNLocator(integer=True))
    _style(objects, "Objects per image", "objects", "share of images")

    if network.anchors is None:
        recall.set_axis_off()
    else:
        _recall(recall, np.concatenate(list(scaled.values())), network, report)
    handles, labels = sizes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=max(1, len(labels)), frameon=False, fontsize=11)
    figure.suptitle(f"{Path(report.path).name} for {network.name}", x=0.01, ha="left", fontsize=15, weight="bold")
    return figure


def _recall(axes: Any, boxes: npt.NDArray[np.float64], network: NetworkView, report: Report) -> None:
    """Share of boxes that an anchor meets, over their size; now, and with the anchors or size that are advised."""
    if len(boxes) > _MOST_BOXES:
        # A fixed seed: the same data give the same chart.
        boxes = boxes[np.random.default_rng(0).choice(len(boxes), _MOST_BOXES, replace=False)]
    edges = 2.0 ** np.arange(1, np.log2(max(network.image_size_hw)) + 0.5, 0.5)
    centres = np.sqrt(edges[1:] * edges[:-1])
    where = np.digitize(np.sqrt(area(boxes)), edges) - 1
    assert network.anchors is not None
    lines: list[tuple[str, Trial | None, str]] = [(f"{network.name} as it is", None, INK)]
    for trial, colour in zip(report.coverage.better if report.coverage else [], PALETTE, strict=False):
        if trial.what == "scale":
            lines.append((f"anchor scale {trial.anchor_scale:g}", trial, colour))
        elif trial.what == "size":
            lines.append((f"image size {size_text(trial.image_size_hw)}", trial, colour))
    for label, tried, colour in lines:
        # Bins by size: a mean over all boxes would hide that only small ones are missed.
        met = network.anchors.met(boxes, tried)
        shares = [met[where == i].mean() if (where == i).any() else np.nan for i in range(len(centres))]
        axes.plot(centres, shares, "o-", color=colour, label=label, linewidth=2, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.03, 1.05)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="lower right")
    size = size_text(network.image_size_hw)
    _style(axes, "Boxes that an anchor meets with IoU ≥ 0.5", f"√area at {size}, pixels", "share of boxes")


def _at_input(dataset: Dataset, size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    target = ~dataset.all_annotations.crowd
    scales = object_scales(dataset, size_hw)[target]
    return dataset.all_annotations.boxes_xyxy[target].astype(np.float64) * scales[:, None]


def _steps(axes: Any, values: Mapping[str, npt.NDArray[Any]], edges: npt.NDArray[Any]) -> None:
    """A histogram for each split, as a share of it."""
    for i, (name, of_split) in enumerate(values.items()):
        # Clipped into the outermost bins, so that the shares of every split add up to 1.
        shares = np.histogram(np.clip(of_split, edges[0], edges[-1]), edges)[0] / max(1, len(of_split))
        colour = PALETTE[i % len(PALETTE)]
        axes.stairs(shares, edges, color=colour, label=name, linewidth=2)
        axes.stairs(shares, edges, color=colour, alpha=0.12, fill=True)
    axes.xaxis.set_major_formatter("{x:g}")


def _style(axes: Any, title: str, x: str, y: str = "share of boxes") -> None:
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=INK)
    axes.set_xlabel(x)
    if axes.get_yticklabels() and "class" not in title:
        axes.set_ylabel(y)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_minor_locator(NullLocator())
