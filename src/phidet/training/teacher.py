"""A teacher: another detector, whose answers to the augmented images are learned beside the labels.

As it sees exactly what the student sees, its answers fit any augmentation ("a good teacher is patient and consistent",
arXiv 2106.05237). They are soft targets: probabilities instead of certain classes.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset as TorchDataset

from phidet.core.errors import ConfigError
from phidet.core.words import few
from phidet.detections.boxes import FloatArray, pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.inference.described import open_detector
from phidet.training.augmentation.detection import Example
from phidet.training.augmentation.mask_tensors import with_unknown
from phidet.training.recipe import Teaching
from phidet.weights.class_rows import same_classes

log = logging.getLogger("phidet")

SAME_OBJECT = 0.8
"""IoU from which detections of several classes are taken for one object of uncertain class."""


class TaughtImages(TorchDataset[Example]):
    """Augmented examples with what a teacher finds in them.

    Args:
        images: the augmented examples.
        teacher: name, file, or description of a detector.
        class_names: of the student.
        teaching: the weight of the teacher.

    Raises:
        ConfigError: teacher and student have no class in common.
    """

    def __init__(
        self, images: TorchDataset[Example], teacher: str, class_names: tuple[str, ...], teaching: Teaching
    ) -> None:
        self.images, self.teacher, self.teaching = images, teacher, teaching
        self.lookup = class_lookup(open_detector(teacher, threads=1).class_names, class_names)
        self.num_classes = count = len(class_names)
        # A name that is spelt otherwise is no error, so it has to be seen.
        unknown = [name for i, name in enumerate(class_names) if i not in self.lookup]
        missing = f", not {few(unknown, 8)}" if unknown else ""
        log.info("teacher: %s, which knows %d of %d classes%s", teacher, count - len(unknown), count, missing)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        example = self.images[key]
        height, width = example.valid_hw
        seen = example.pixels[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        # All classes of a box: what the teacher is unsure of is what there is to learn from it.
        settings = PostprocessSettings(score=self.teaching.score, iou=0.65, multi_class=True, max_detections=300)
        found = objects_of(self._detector.detect([seen], settings)[0], self.lookup, self.num_classes)
        return teach(example, found, self.num_classes, self.teaching)

    @cached_property
    def _detector(self) -> SupportsDetect:
        # Opened when first used: in each worker process, as runtimes do not survive a fork.
        return open_detector(self.teacher, threads=1)  # each of several processes has one


class TaughtObjects(NamedTuple):
    """What a teacher found in an image.

    Attributes:
        boxes_xyxy: (M, 4) float32 in pixels.
        soft: (M, C) float32, probability of each of the student's classes.
    """

    boxes_xyxy: FloatArray
    soft: FloatArray


def class_lookup(teacher: tuple[str, ...], student: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """For each class of the teacher the student's class of the same name, −1 if there is none.

    Names are the same as for rows of a class predictor, see :func:`phidet.weights.class_rows.same_classes`.

    Raises:
        ConfigError: no name is in both.
    """
    lookup = np.array([-1 if same is None else same for same in same_classes(student, teacher)], np.int64)
    if (lookup < 0).all():
        raise ConfigError(
            f"the teacher knows {', '.join(teacher[:5])}{' …' if len(teacher) > 5 else ''}, the data have "
            f"{', '.join(student[:5])}{' …' if len(student) > 5 else ''}: no class of the same name, nothing to teach"
        )
    return lookup


def objects_of(detections: Detections, lookup: npt.NDArray[np.int64], num_classes: int) -> TaughtObjects:
    """Detections as objects with a probability for each class: those of several classes at one place are one object.

    Args:
        detections: best first.
        lookup: see :func:`class_lookup`.
        num_classes: of the student.
    """
    known = detections[lookup[detections.class_ids] >= 0] if len(detections) else detections
    class_ids, scores = lookup[known.class_ids], known.scores
    owner = np.full(len(known), -1)
    overlaps = pairwise_iou(known.boxes_xyxy, known.boxes_xyxy)
    # Best first, so that an object has the box of its most probable class.
    for index in range(len(known)):
        if owner[index] < 0:
            owner[(owner < 0) & (overlaps[index] >= SAME_OBJECT)] = index
    leaders, group = np.unique(owner, return_inverse=True)
    soft = np.zeros((len(leaders), num_classes), np.float32)
    np.maximum.at(soft, (group, class_ids), scores)
    return TaughtObjects(known.boxes_xyxy[leaders], soft)


def teach(example: Example, found: TaughtObjects, num_classes: int, teaching: Teaching) -> Example:
    """``example`` with soft targets: labels mixed with what the teacher says of them, and what it alone found.

    A label takes the teacher's object that overlaps it most, and becomes ``(1 − weight) · label + weight · teacher``;
    one that the teacher missed stays certain. Other objects of the teacher are added with their probabilities, unless
    they overlap a label, and are duplicates. A teacher that answers with the labels changes nothing.

    Args:
        example: an augmented image and its labels.
        found: in pixels of the example.
        num_classes: C.
        teaching: ``weight`` and ``overlap``.
    """
    labels = torch.nn.functional.one_hot(example.class_ids, num_classes).float()  # (N, C)
    boxes, soft = (torch.from_numpy(np.array(values)) for values in found)
    if not len(boxes):
        return example._replace(soft=labels)
    # Without labels there is no largest overlap to look for.
    if not len(labels):
        masks = with_unknown(example.masks, len(boxes))
        return example._replace(boxes_xyxy=boxes, class_ids=soft.argmax(1), soft=soft, masks=masks)
    overlaps = pairwise_iou(example.boxes_xyxy, boxes)  # (N, M)
    best, which = overlaps.max(1)
    mixed = torch.lerp(labels, soft[which], teaching.weight)
    labels = torch.where((best >= teaching.overlap)[:, None], mixed, labels)
    alone = overlaps.amax(0) < teaching.overlap  # (M,)
    return example._replace(
        boxes_xyxy=torch.cat([example.boxes_xyxy, boxes[alone]]),
        class_ids=torch.cat([example.class_ids, soft[alone].argmax(1)]),
        soft=torch.cat([labels, soft[alone]]),
        masks=with_unknown(example.masks, int(alone.sum())),
    )
