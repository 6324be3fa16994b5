"""The description of a run that is kept in ``run.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from phidet.architectures.registry import publisher_of
from phidet.data.data_folder import Layout
from phidet.data.run_images import RunImages
from phidet.training.recipe import Recipe


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, on what.

    Attributes:
        data: a folder or file in any layout; for classification a folder with one folder for each class.
        layout: how they are laid out, where that is not recognised.
        model: a published name, a model file (.safetensors) or the folder of a run.
        pretrained: where the weights of a published model start: "coco" (a whole detector), "backbone" (ImageNet), a
            weight file, "person" (the bundled detector), or "none"; "auto" is the first of "coco", "person" for
            networks like it, and "backbone" that can be had. A classifier's ImageNet weights are "backbone", too.
        image_size: input side or (height, width) in pixels; the model's own unless given.
        train_split, val_split: found by their names unless given; ``val_split`` "none" trains without evaluation.
        split_seed: which images are held out where there is no validation split; the run's seed unless given.
        recipe: a recipe's name; "auto" chooses by the number of images.
        changes: of the recipe's fields.
        teacher: a detector to learn from beside the labels: a model's name or file, a run's folder, or the description
            (.json) of another project's detector.
        unlabelled: a folder of images without labels, of which only the teacher's answers are learned.
        masks: whether a published model learns masks as well as boxes.
        semantic: whether it learns the class of every pixel.
        detector: of a network on detections: the model whose detections it relates, or files of those of the
            training and the validation images.
        appearance: whether such a network also sees what the detector's feature maps hold in each box.
    """

    data: str
    layout: Layout | None = None
    model: str = "efficientdet-lite0"
    pretrained: str = "auto"
    image_size: int | tuple[int, int] | None = None
    train_split: str | None = None
    val_split: str | None = None
    split_seed: int | None = None
    recipe: str = "auto"
    changes: dict[str, Any] = {}
    teacher: str | None = None
    unlabelled: str | None = None
    masks: bool = False
    semantic: bool = False
    detector: tuple[str, ...] = ()
    appearance: bool = False

    def moved_to(self, data: str | Path) -> Request:
        """The same request, its data being at ``data`` now."""
        return msgspec.structs.replace(self, data=str(data)).with_absolute_paths()

    def with_absolute_paths(self) -> Request:
        """The same request, independent of the current folder."""
        # A published name wins over a file of the same name; only real paths are made absolute.
        named = publisher_of(self.model) is not None or not Path(self.model).exists()
        model = self.model if named else os.path.abspath(self.model)
        # "backbone", "coco" and "none" are words, unless there is a file of that name.
        pretrained = os.path.abspath(self.pretrained) if Path(self.pretrained).is_file() else self.pretrained
        teacher = self.teacher
        if teacher is not None and Path(teacher).exists():
            teacher = os.path.abspath(teacher)
        return msgspec.structs.replace(
            self,
            data=os.path.abspath(self.data),
            model=model,
            pretrained=pretrained,
            teacher=teacher,
            detector=tuple(os.path.abspath(name) if Path(name).exists() else name for name in self.detector),
            unlabelled=None if self.unlabelled is None else os.path.abspath(self.unlabelled),
        )


class Origin(NamedTuple):
    """Where a run comes from.

    Attributes:
        request: what was asked for, with absolute paths.
        images: which images it learns from and is validated on; ``None`` in other processes than the first, and in
            runs of earlier versions.
    """

    request: Request
    images: RunImages | None


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A run: with which versions it began, and everything that decides how it goes on.

    Attributes:
        phidet, torch: versions.
        model: its name.
        train, val: names of the data; ``val`` is ``None`` without evaluation.
        num_images: to train on.
        seed: of the order of images, augmentation and fresh weights.
        recipe: how.
        request: what was asked for; ``None`` where :func:`phidet.training.fit.fit` was called with a task of one's own.
        save_memory, compile: of the settings.
    """

    phidet: str
    torch: str
    model: str
    train: str
    val: str | None
    num_images: int
    seed: int
    recipe: Recipe
    request: Request | None
    save_memory: bool = False
    compile: bool = False
