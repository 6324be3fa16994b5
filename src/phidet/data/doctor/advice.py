"""Advice on the findings: sentences, the most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from phidet.core.words import count, few
from phidet.data.doctor.facts import (
    COCO_DETECTIONS,
    Advice,
    ClassFacts,
    Coverage,
    DuplicateBoxes,
    DuplicateImages,
    Findings,
    Report,
    SplitFacts,
    Trial,
)

ERRORS = {
    "split unreadable": "{n} cannot be read: {first}",
    "split empty": "{n} without an image that can be used: {first}",
    "image unreadable": "{n} cannot be decoded. Copy them again, convert them, or leave them out with --fix OUT",
    "image size wrong": "{n} of another size than their labels say, so the boxes are for other images. Correct the "
    "labels or bring the right images; --fix OUT leaves them out",
}
"""Kinds of findings that would break training."""
WARNINGS = {
    "image missing": "{n} missing. Bring the files, or accept training without them",
    "label unreadable": "{n} cannot be read. Correct them: their objects count as background, or their images go",
    "class unknown": "{n} of a class that is not in the list. Add the class, or correct the label",
    "box invalid": "{n} not made of usable numbers. Correct them: until then these objects count as background",
    "box outside": "{n} outside the image. Correct them: until then these objects count as background",
    "box empty": "{n} without area, left out. Draw them again, or delete them",
    "mask invalid": "{n} that cannot be used; the boxes are. Correct them, or the objects are learned without masks",
    "mask empty": "{n} without a pixel in the image. Draw them again, or leave the objects their boxes only",
    "mask misplaced": "{n} elsewhere than the box of their object. See in the sheets (--out FOLDER) which is right",
    "mask outside": "{n} reaching out of the image. Check that the labels are of these images and not of larger ones",
    "mask overlapping": "{n} over one another, and in panoptic labels a pixel has one segment. Correct the ids",
    "image dark": "{n} nearly black, as 12 bits of a sensor in a 16-bit file are. Scale their values to all 16 bits",
    "image misnamed": "{n} with labels that name another image. See the list above whether the boxes went to the right "
    "one, and correct <filename> or the name of the file",
    "image repeated": "{n} listed more than once; objects of later entries are added where they fit. Merge the entries",
}
NOTES = {
    "image size corrected": "Records say another size than their images have, which is used. Nothing to do",
    "box turned": "{n} turned, for which the upright boxes around them are used. See in the sheets (--out FOLDER) that "
    "they fit",
    "box clipped": "{n} reaching out of the image, cut at its border. Nothing to do",
    "category ids with gaps": "Category ids have gaps; classes go by name, so there is nothing to do",
    "grouping category": "A category without objects that only groups others is not used as a class. Nothing to do",
    "class names missing": "The classes have no names. List them, one a line in the order of their numbers, in "
    "classes.txt beside the labels",
    "image hidden": "Hidden files are listed and left out, see above. Take them out of the list",
    "image in no split": "Labelled images lie outside the folders of the splits, see above. Move them into one",
    "key points inferred": "Labels are taken for boxes with key points. Say so with kpt_shape in data.yaml, or look at "
    "the boxes in the sheets (--out FOLDER)",
    "label shared": "{n} shared by images that differ in their endings only. If they are not the same image, rename "
    "one of them and give it labels of its own",
    "path moved": "Paths in the lists hold only without their first folders. Check in the sheets (--out FOLDER) that "
    "these are the right images",
    "score unused": "Labels have scores, as detections do. Review them unless that was done",
    "image found by name": "Some images are not where the labels say, and were found by their names. Check in the "
    "sheets (--out FOLDER) that they are the right ones",
}
_NOUNS = {"split": "split", "image": "image", "label": "label", "box": "box", "class": "object", "mask": "mask"}
_FEW_CLIPPED, _MANY_CLIPPED = 5, 0.1  # boxes, and of all boxes
_FEWEST_FOR_EXTENT, _SMALL_EXTENT = 20, 0.6  # boxes, and of the sides of their images
_SMALL_SIDE = 8  # pixels in the input, the stride of the finest level


def advise(report: Report, train: str | None, val: str | None) -> list[Advice]:
    """Sentences on everything in the report.

    Args:
        report: with all but the advice.
        train: the split to train on, ``None`` where it is not known.
        val: the split to validate on.
    """
    own = [split for split in report.splits if not split.made_of]
    found = [
        *_on_errors(report.findings),
        *_on_duplicate_images(report.duplicate_images),
        *_on_splits(own, train, val),
        *_on_findings(report.findings, sum(split.objects for split in own)),
        *_on_classes(report.classes, train, val),
        *_on_duplicate_boxes(report.duplicate_boxes),
        *([] if report.coverage is None else _on_coverage(report.coverage, report)),
        *_on_objects(own),
        *_on_unused(report.unused_files),
    ]
    # A stable sort: within a severity, the order above stays, which is by importance.
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda advice: order[advice.severity])


def _on_errors(findings: Sequence[Findings]) -> Iterator[Advice]:
    for group in findings:
        if group.kind in ERRORS:
            yield Advice("error", ERRORS[group.kind].format(n=_number(group), first=group.items[0].what) + ".")


def _on_findings(findings: Sequence[Findings], objects: int) -> Iterator[Advice]:
    for group in findings:
        # A few clipped boxes are drawn by hand; many mean that the format or the image size is wrong.
        if group.kind == "box clipped" and len(group.items) > max(_FEW_CLIPPED, _MANY_CLIPPED * objects):
            yield Advice(
                "warning",
                f"{_number(group)} of {objects:,} reaching out of the image, far more than by hand. Check that "
                "they are what the layout expects (COCO: x, y, width, height; VOC: corners; in pixels), and that the "
                "labels are of these images and not of larger ones.",
            )
        elif group.kind in WARNINGS:
            yield Advice("warning", WARNINGS[group.kind].format(n=_number(group)) + ".")
        elif group.kind not in ERRORS:
            text = NOTES.get(group.kind, "{n}: " + group.kind + ". See the list above")
            yield Advice("note", text.format(n=_number(group)) + ".")


def _number(group: Findings) -> str:
    return count(len(group.items), _NOUNS.get(group.kind.split()[0], "finding"))


def _on_splits(splits: Sequence[SplitFacts], train: str | None, val: str | None) -> Iterator[Advice]:
    by_name = {split.name: split for split in splits}
    if splits and not any(split.objects for split in splits):
        yield Advice(
            "error", "There is not one object in the data. Check that labels and images lie where they should."
        )
    elif train in by_name and not by_name[train].objects:
        yield Advice("error", f"{train} has no object: nothing can be learned from it. Check where its labels lie.")
    elif train in by_name and by_name[train].objects == by_name[train].crowd:
        yield Advice("error", f"All objects in {train} are crowds, which are never learned. Label single objects.")
    if train is None and splits:
        names = ", ".join(split.name for split in splits)
        yield Advice("warning", f"The names {names} do not show which split to train on. Name it for training.")
    if val is None and splits:
        yield Advice(
            "warning",
            "There is no split to validate on. Put aside a tenth to a fifth of the images as val, whole scenes or "
            "videos at a time, so that progress is measured on images that were not trained on.",
        )
    for split in splits:
        # Boxes in percent, or of smaller copies of the images, all lie in the upper left part.
        if split.boxes.total >= _FEWEST_FOR_EXTENT and split.extent < _SMALL_EXTENT:
            yield Advice(
                "warning",
                f"No box in {split.name} reaches beyond {split.extent:.0%} of its image, from the upper left corner. "
                "Check that the labels are in pixels of these images, not percentages or pixels of smaller copies.",
            )
        empty = split.images_without_objects
        if split.objects and empty > split.images / 2:
            yield Advice(
                "note",
                f"{empty / split.images:.0%} of the images in {split.name} have no object. If that is not meant, look "
                "for labels that were not exported; if it is, nothing needs to be done.",
            )


def _on_duplicate_images(groups: Sequence[DuplicateImages]) -> Iterator[Advice]:
    # Told apart, as exact copies in two splits are certain leaks, and near ones need a look.
    exact, near = ([group for group in groups if (group.kind == "near") is wanted] for wanted in (False, True))
    # Every pair of splits once, however many copies a group has.
    for (a, b), n in Counter(pair for group in exact for pair in combinations(group.splits, 2)).items():
        yield Advice(
            "warning",
            f"LEAKAGE: {count(n, 'image')} {'is' if n == 1 else 'are'} both in {a} and in {b}. Results on images "
            "that were trained on say nothing about new ones: take them out of one split; --fix OUT takes them out of "
            "the one to train on.",
        )
    for (a, b), n in Counter(pair for group in near for pair in combinations(group.splits, 2)).items():
        yield Advice(
            "warning",
            f"LEAKAGE? {count(n, 'image')} in {a} {'looks' if n == 1 else 'look'} nearly like one in {b}. See the "
            "sheet suspicious.png (--out FOLDER); if they are copies or frames of one video, move them into one split.",
        )
    for some, kind, fix in (
        (exact, "the same", "--fix OUT keeps one of each"),
        (near, "nearly the same", "Drop them if they are not meant"),
    ):
        # More copies than splits: at least two of them are in one split.
        if extra := sum(len(group.members) - len(group.splits) for group in some):
            text = (
                f"{count(extra, 'image')} {'is' if extra == 1 else 'are'} {kind} as another of the same split. {fix}."
            )
            yield Advice("warning" if some is exact else "note", text)
    differ = [group for group in exact if not group.same_labels]
    if differ:
        text = f"{count(len(differ), 'image')} with several copies, labelled differently. Decide which labels hold"
        yield Advice("warning", f"{text}; the first is {differ[0].members[0].image}.")


def _on_classes(classes: ClassFacts, train: str | None, val: str | None) -> Iterator[Advice]:
    if classes.untrained:
        yield Advice(
            "warning",
            f"Not in {train}, but elsewhere: {few(classes.untrained)}. What is never shown is never found: bring "
            "examples, or take the class out.",
        )
    for twins in classes.twins:
        names = " and ".join(repr(name) for name in twins)
        yield Advice("warning", f"Classes {names} look like one class written differently. Merge them if they are one.")
    if classes.lists_differ:
        text = f"The classes of {few(classes.lists_differ)} are not those of {train}, or in another order"
        yield Advice("warning", f"{text}. They are matched by name; a name that only one of them has is left out.")
    if classes.rare:
        listed = few([f"{name} ({n})" for name, n in sorted(classes.rare.items(), key=lambda item: item[1])])
        yield Advice(
            "warning",
            f"{count(len(classes.rare), 'class')} with fewer than 20 objects in {train}: {listed}. Label more of them, "
            "merge them with a similar class, or expect low AP.",
        )
    if classes.unmeasured:
        yield Advice(
            "note",
            f"In {train}, but not in {val}: {few(classes.unmeasured)}. How well they are found will not be measured; "
            "move a few images over.",
        )
    if classes.unused:
        text = f"{count(len(classes.unused), 'class')} without any object: {few(classes.unused)}"
        yield Advice("note", f"{text}. Take them out of the list unless objects are to come.")


def _on_duplicate_boxes(found: Sequence[DuplicateBoxes]) -> Iterator[Advice]:
    if found:
        images = len({(box.split, box.image) for box in found})
        yield Advice(
            "warning",
            f"{count(len(found), 'object')} labelled twice (same class, IoU > 0.95) in {count(images, 'image')}, first "
            f"in {found[0].image}. Delete one of each pair; --fix OUT does.",
        )


def _on_coverage(coverage: Coverage, report: Report) -> Iterator[Advice]:
    recall = coverage.recall.all or 0.0
    size = size_text(report.image_size_hw)
    if coverage.better:
        yield Advice(
            "warning" if recall < 0.8 else "note",
            f"The anchors of {report.model} at {size} meet {recall:.1%} of the boxes with IoU ≥ 0.5; the others are "
            f"learned from less fitting anchors. Try {'; or '.join(_trial_text(trial) for trial in coverage.better)}.",
        )
    elif recall < 0.8:
        yield Advice(
            "warning",
            f"The anchors of {report.model} at {size} meet only {recall:.1%} of the boxes with IoU ≥ 0.5, and no other "
            "anchors or size tried do much better. Look at the boxes in the sheets; cut large images into tiles.",
        )
    # Objects below one cell of the finest level leave hardly any features to learn from.
    tiny = coverage.smaller_than[str(_SMALL_SIDE)]
    if tiny > coverage.boxes / 50:
        yield Advice(
            "warning" if tiny > coverage.boxes / 5 else "note",
            f"{tiny / coverage.boxes:.0%} of the boxes are smaller than {_SMALL_SIDE} pixels at {size}, hard to see "
            "for any network. Use a larger image size, or cut the images into tiles.",
        )


def _trial_text(trial: Trial) -> str:
    recall = f"{trial.recall.all or 0:.1%}"
    if trial.what == "scale":
        return f"anchor scale {trial.anchor_scale:g} ({recall})"
    if trial.what == "aspects":
        return f"anchors of aspect {', '.join(f'{a:.2g}' for a in trial.aspects)} ({recall})"
    return f"image size {size_text(trial.image_size_hw)} ({recall}, slower)"


def size_text(size_hw: tuple[int, int]) -> str:
    """ "320×320", height first, as --image-size takes it."""
    return f"{size_hw[0]}×{size_hw[1]}"


def _on_objects(splits: Sequence[SplitFacts]) -> Iterator[Advice]:
    crowded = sum(split.crowded_images for split in splits)
    if crowded:
        most = int(max(split.objects_per_image.largest for split in splits))
        yield Advice(
            "note",
            f"{count(crowded, 'image')} with more than {COCO_DETECTIONS} objects (up to {most}). COCO's evaluation "
            f"counts {COCO_DETECTIONS} detections per image: raise the limit of detections, or cut such images.",
        )


def _on_unused(files: Sequence[str]) -> Iterator[Advice]:
    if files:
        text = f"{count(len(files), 'file')} used by no split: {few(files, 3)}"
        yield Advice("note", f"{text}. If they should be, check names and lists.")
