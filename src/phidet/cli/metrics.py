"""Metrics as text for the terminal."""

from __future__ import annotations

from phidet.cli.tables import or_dash, table
from phidet.evaluation.class_counts import ClassCounts
from phidet.evaluation.classification import ClassificationReport
from phidet.evaluation.mask_metrics import MaskMetrics
from phidet.evaluation.matching import MATCHED
from phidet.evaluation.measure import Evaluation
from phidet.evaluation.reliability import Reliability

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


def summarise(evaluation: Evaluation) -> str:
    """COCO's metrics, and a row for each class, the best first; an en dash where one is not defined."""
    report = evaluation.coco
    rows = [(f"{label:<11}{what}", getattr(report, name)) for label, name, what in _ROWS]
    # COCO's metrics stop at 100 detections; a higher limit gets a row of its own.
    if report.max_objects > 100:
        rows.append((f"{'AR ' + str(report.max_objects):<11}{report.max_objects:,} detections", report.ar_max))
    if evaluation.iou != MATCHED:
        rows.append((f"{'AP':<11}IoU {evaluation.iou:.2f}", evaluation.ap_at_iou))
    if evaluation.voc_ap50 is not None:
        rows.append((f"{'VOC AP50':<11}IoU 0.50, difficult objects aside", evaluation.voc_ap50))
    coco = table(("COCO", "value"), [(label, or_dash(value, "{:.3f}")) for label, value in rows])
    if evaluation.masks is not None:
        coco += f"\n\n{_masks(evaluation.masks)}"
    # Classes without objects have no AP, and come last.
    order = sorted(
        range(len(report.classes)), key=lambda c: -1.0 if report.classes[c].ap is None else report.classes[c].ap or 0.0
    )
    header: tuple[str, ...] = (
        *("class", "objects", "right", "false", "missed"),
        *("precision", "recall", "F1", "AP", "AP50"),
    )
    # Only where they were looked for, a column has the best score of each class.
    own = [(score,) for score in evaluation.thresholds.scores] if evaluation.thresholds else [()] * len(order)
    # A threshold is of a class; all classes together have none.
    nothing = (None,) if evaluation.thresholds else ()
    lines = [(evaluation.all_classes, report.ap, report.ap50, *nothing)]
    lines += [(evaluation.classes[c], report.classes[c].ap, report.classes[c].ap50, *own[c]) for c in reversed(order)]
    if evaluation.thresholds is not None:
        header = (*header, "threshold")
    best = ", that of the best mean F1" if evaluation.score == evaluation.best_score else ""
    return (
        f"{report.images:,} images, {report.objects:,} objects\n\n{coco}\n\n"
        f"at score {evaluation.score:.3g}{best}, IoU {evaluation.iou:g}\n"
        + table(header, [(*_counted(counts), *map(_share, values)) for counts, *values in lines])
        + _reliability(evaluation.reliability)
    )


def _reliability(reliability: Reliability | None) -> str:
    """Whether scores are probabilities, in a line."""
    if reliability is None or reliability.ece is None or reliability.bias is None:
        return ""
    side = "above" if reliability.bias > 0 else "below"
    return (
        f"\n\nscores from {reliability.floor:g} on are {abs(reliability.bias):.3f} {side} the share that is right on "
        f"average (expected calibration error {reliability.ece:.3f})"
    )


def _masks(masks: MaskMetrics) -> str:
    """COCO's metrics of masks, panoptic quality and the IoU of classes, those that are defined."""
    said = ""
    if masks.coco is not None:
        rows = [(f"{label:<11}{what}", getattr(masks.coco, name)) for label, name, what in _ROWS]
        rows.append((f"{'AP':<11}IoU 0.50…0.95, of boundaries, too", masks.boundary_ap))
        said = table(("masks", "value"), [(label, _share(value)) for label, value in rows]) + "\n\n"
    said += "segments: " if masks.score is None else f"at score {masks.score:.3g}: "
    said += f"mean IoU of classes {_share(masks.semantic.miou)}, "
    said += f"{_share(masks.semantic.accuracy)} of the pixels right"
    if masks.panoptic is not None:
        kinds = (("all", masks.panoptic.all), ("things", masks.panoptic.things), ("stuff", masks.panoptic.stuff))
        lines = [(name, *map(_share, (q.pq, q.sq, q.rq)), str(q.classes)) for name, q in kinds]
        said += "\n\n" + table(("panoptic", "PQ", "SQ", "RQ", "classes"), lines)
    return said


def summarise_classification(report: ClassificationReport) -> str:
    """How many images, top-1 and top-5, and a row for each class."""
    header = ("class", "images", "right", "false", "missed", "precision", "top-1", "F1")
    return f"{report.images:,} images, top-1 {_share(report.top1)}, top-5 {_share(report.top5)}\n\n" + table(
        header, [_counted(counts) for counts in report.classes]
    )


def _counted(counts: ClassCounts) -> tuple[str, ...]:
    numbers = (counts.objects, counts.true_positives, counts.false_positives, counts.false_negatives)
    shares = (counts.precision, counts.recall, counts.f1)
    return (counts.name, *(f"{number:,}" for number in numbers), *map(_share, shares))


def _share(value: float | None) -> str:
    return or_dash(value, "{:.3f}")
