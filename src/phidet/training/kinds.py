"""The kinds of training, one for each ``--task``: what reads their data, which recipe and task they have, what reports.

Which one a run is follows from its model. A further kind is a row in :data:`KINDS` and a
:class:`phidet.training.base.TrainingTask`; the command line lists its name in ``cli/train.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from phidet.architectures.base import Architecture, NetworkConfig, Says
from phidet.architectures.model import Model
from phidet.data.run_images import RunImages, restore
from phidet.training.about import Origin, Request
from phidet.training.base import TrainingTask
from phidet.training.generate_report import report_generator
from phidet.training.generate_task import GenerateTask
from phidet.training.recipe import CLASSIFY, Recipe, choose_classify_recipe, recipe_named, replace
from phidet.training.relations_data import read_relations_data
from phidet.training.relations_task import RelationsTask, for_data, report_relations
from phidet.training.report import report_on
from phidet.training.run_data import RunData, read_generate_data, read_run_data
from phidet.training.task import Task


class Reported(NamedTuple):
    """What a report is about.

    Attributes:
        model: the best one of the run.
        data: of the run.
        origin: where the run comes from.
        folder: for the report.
        accelerator: as Lightning Fabric takes it.
    """

    model: Model
    data: RunData
    origin: Origin
    folder: Path
    accelerator: str


class Kind(NamedTuple):
    """One kind of training.

    Attributes:
        name: of ``--task``.
        says: what its networks predict.
        read: the data of a request, from its seed; those that a run began with, where it is resumed.
        recipe: by name, for a number of images and an architecture.
        task: for a model's config.
        report: writes the report on a finished run, and returns the main metrics by name.
        adapt: the config for these data and this request, where more than the data's classes matters.
    """

    name: str
    says: Says
    read: Callable[[Request, int, RunImages | None], RunData]
    recipe: Callable[[str, int, Architecture[Any]], Recipe]
    task: Callable[[NetworkConfig, RunData, Request], TrainingTask]
    report: Callable[[Reported], dict[str, float]]
    adapt: Callable[[Any, RunData, Request], Any] = lambda config, data, request: config


def kind_of(architecture: Architecture[Any]) -> Kind:
    """The kind of training of an architecture's networks: detection, if no other kind claims what they predict."""
    return next((kind for kind in KINDS if kind.says in architecture.says), KINDS[0])


def _labelled_images(config: NetworkConfig, data: RunData, request: Request) -> TrainingTask:
    return Task(config, *data, request.teacher)


def _classify_recipe(name: str, num_images: int, architecture: Architecture[Any]) -> Recipe:
    # Classifiers have their own automatic recipe; a named one is shared, but for what batch norms need.
    if name == "auto":
        return choose_classify_recipe(num_images)
    return replace(recipe_named(name, num_images, architecture), {"batch_norm_momentum": CLASSIFY.batch_norm_momentum})


def _generate_data(request: Request, known: RunImages | None) -> RunData:
    train = read_generate_data(request).train
    # The data may have been moved or grown since: images are matched by content, not by path.
    return RunData(train if known is None else restore([known.train], train, [train.name], request.data)[0], None)


def _report(run: Reported) -> dict[str, float]:
    val, images = run.data.val, run.origin.images
    if val is None:
        return {}
    # Images that are in both parts make the metrics look too good; the report states their number.
    learned = None if images is None else len(images.copies())
    return report_on(run.model, val, run.folder, run.origin.request.data, run.accelerator, learned)


def _relations_report(run: Reported) -> dict[str, float]:
    if run.data.val is None:
        return {}
    task = RelationsTask(run.model.config, *run.data, run.origin.request)
    task.open_detections(run.folder.parent, stored=True)
    return report_relations(task, run.model, run.folder)


KINDS = (
    Kind(
        "detect",
        "boxes",
        lambda request, seed, known: read_run_data(request, seed, False, known),
        recipe_named,
        _labelled_images,
        _report,
    ),
    Kind(
        "generate",
        "samples",
        lambda request, seed, known: _generate_data(request, known),
        recipe_named,
        lambda config, data, request: GenerateTask(config, data.train),
        lambda run: report_generator(run.model, run.data.train, run.folder),
    ),
    Kind(
        "classify",
        "classes",
        lambda request, seed, known: read_run_data(request, seed, True, known),
        _classify_recipe,
        _labelled_images,
        _report,
    ),
    Kind(
        "relations",
        "relations",
        read_relations_data,
        recipe_named,
        lambda config, data, request: RelationsTask(config, *data, request),
        _relations_report,
        lambda config, data, request: for_data(config, data.train, request),
    ),
)
"""The first one is that of architectures which no other kind claims."""
