"""Figures as text for the terminal."""

from __future__ import annotations

from phidet.cli.tables import or_dash, table
from phidet.evaluation.coco_figures import CocoReport

_ROWS = (
    ("AP", "ap", "IoU 0.50…0.95"),
    ("AP50", "ap50", "IoU 0.50"),
    ("AP75", "ap75", "IoU 0.75"),
    ("AP small", "ap_small", "objects below 32² px"),
    ("AP medium", "ap_medium", "32²…96² px"),
    ("AP large", "ap_large", "above 96² px"),
    ("AR 1", "ar_1", "recall, 1 detection of a class per image"),
    ("AR 10", "ar_10", "10 detections"),
    ("AR 100", "ar_100", "100 detections"),
    ("AR small", "ar_small", "objects below 32² px"),
    ("AR medium", "ar_medium", "32²…96² px"),
    ("AR large", "ar_large", "above 96² px"),
)


def summarise(report: CocoReport) -> str:
    """COCO's twelve figures, and a row for each class, the best first; an en dash where there are no objects."""
    figures = table(
        ("COCO", "figure"),
        [(f"{label:<11}{what}", or_dash(getattr(report, name), "{:.3f}")) for label, name, what in _ROWS],
    )
    best_first = sorted(report.classes, key=lambda c: -1.0 if c.ap is None else c.ap, reverse=True)
    classes = table(
        ("class", "objects", "AP", "AP50"),
        [(c.name, f"{c.objects:,}", or_dash(c.ap, "{:.3f}"), or_dash(c.ap50, "{:.3f}")) for c in best_first],
    )
    return f"{report.images:,} images, {report.objects:,} objects\n\n{figures}\n\n{classes}"
