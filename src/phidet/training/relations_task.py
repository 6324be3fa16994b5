"""Learning relations between detections: of any network that relates them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from phidet.architectures.base import Loss, NetworkConfig, resolved_loss
from phidet.architectures.model import Model
from phidet.architectures.processes import Processes
from phidet.architectures.registry import architecture_of
from phidet.architectures.relating import RelationBatch
from phidet.core.files import write_atomic
from phidet.data.dataset import Annotations, Dataset
from phidet.detections.detections import Detections
from phidet.detections.graphs.related import Related
from phidet.evaluation.relations import RelationsReport, measure_relations
from phidet.evaluation.results_file import read_results
from phidet.training.about import Request
from phidet.training.augmentation.faults import with_fault
from phidet.training.base import TrainingTask
from phidet.training.evaluate import defined
from phidet.training.frame_pairs import frame_pairs, paired
from phidet.training.learner import Learner
from phidet.training.loading import EpochSampler, train_loader
from phidet.training.recipe import Recipe
from phidet.training.relations_data import detect_once, detections_from, detector_of, file_of, results_of, seen_fields
from phidet.training.run_data import RunData
from phidet.training.task import total_over_processes

if TYPE_CHECKING:
    from phidet.training.fit import RunSettings

_MOST_KEPT = 10_000  # examples, of about 50 kB
_TITLES = {"mean": "mean", "ap": "AP", "labels": "labels", "groups": "groups", "verdict_auc": "verdicts' AUC"}
"""The first decides which model is best: one that judges well and places boxes a little worse is better."""


class RelationsTask(TrainingTask):
    """A network that learns to say of detections what the labels of their images say.

    Args:
        config: of the model, with the classes of the detector.
        train, val: labelled images.
        request: names the detector, or files of its detections.
        found: the detections in each image of ``train`` and of ``val``, instead of what the request names.
    """

    def __init__(
        self,
        config: NetworkConfig,
        train: Dataset,
        val: Dataset | None,
        request: Request,
        found: tuple[list[Detections], list[Detections]] | None = None,
    ) -> None:
        self.config, self.train, self.val, self.request = config, train, val, request
        self.architecture = architecture_of(config)
        self.relating = self.architecture.relating(config)
        self.metrics = _TITLES
        self.found = found
        self._pairs = [frame_pairs(one) if one is not None and train.frames else None for one in (train, val)]
        self._loss: Loss | None = None

    @property
    def num_images(self) -> int:
        """Images, or pairs of frames, to train on."""
        return len(self.train) if self._pairs[0] is None else len(self._pairs[0])

    def learner(self, fabric: Fabric, model: Model, recipe: Recipe, settings: RunSettings) -> Learner:
        """The usual one; before it learns, the detections are there."""
        # The first process detects and keeps what it found; the others read it.
        if fabric.is_global_zero:
            self.open_detections(settings.out, settings.resume)
        fabric.barrier()
        self.open_detections(settings.out, stored=True)
        return super().learner(fabric, model, recipe, settings)

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        examples = _Examples(self._learned(0), self.relating, recipe.augmentation.faults, seed)
        return train_loader(examples, sampler, workers, self.relating.collate)

    def losses(self, fabric: Fabric, model: Any, batch: RelationBatch, recipe: Recipe) -> dict[str, Tensor]:
        # Built with the first batch: neither recipe nor device are known before.
        if self._loss is None:
            self._loss = self.architecture.loss(self.config, resolved_loss(self.architecture, recipe.loss))
            self._loss.to(fabric.device)
        batch = batch.to(fabric.device)
        return self._loss(model(*batch.inputs), batch, Processes(fabric.world_size, total_over_processes))

    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        report = self.measure(model, fabric.device, compare=False)
        measured = defined({key: getattr(report, key) for key in self.metrics if key != "mean"})
        return {"mean": float(np.mean(list(measured.values()))), **measured} if measured else {}

    def measure(self, model: Any, device: torch.device, compare: bool = True) -> RelationsReport:
        """Metrics of ``model``, in any mode, on the validation images; with ``compare`` also those of the detector."""
        dataset, found = self._learned(1)
        relate = TorchRelations(model, device)
        related = [relate(one) for one in found]
        return measure_relations(dataset, found if compare else None, related)

    def _learned(self, split: int) -> tuple[Dataset, list[Detections]]:
        """The labelled images, or pairs of frames, of the training (0) or validation data, and what was found there."""
        dataset, pairs = (self.train, self.val)[split], self._pairs[split]
        assert dataset is not None
        assert self.found is not None
        return (dataset, self.found[split]) if pairs is None else paired(dataset, self.found[split], pairs)

    def open_detections(self, out: Path, stored: bool) -> None:
        """Makes the detections in both data sets known, unless they are: from files, or by the detector.

        Args:
            out: the run's folder, where what the detector found is kept.
            stored: whether it may be there.
        """
        if self.found is not None:
            return
        files = results_of(self.request.detector)
        both: list[list[Detections]] = []
        for split, (name, dataset) in enumerate((("train", self.train), ("val", self.val))):
            path = out / f"detections-{name}.json"
            if dataset is None:
                both.append([])
            elif files is not None:
                file = file_of(files, split, RunData(self.train, self.val))
                both.append(detections_from(file, dataset))
            elif stored and path.is_file():
                both.append(detections_from(read_results(path), dataset))
            else:
                both.append(detect_once(detector_of(self.request), dataset, path, self.relating.score))
        self.found = both[0], both[1]


class TorchRelations:
    """A network that relates detections, in PyTorch.

    Args:
        model: in any mode; switched to evaluation mode during a call.
        device: that it is on.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.relating = architecture_of(model.config).relating(model.config)

    @torch.inference_mode()
    def __call__(self, detections: Detections) -> Related:
        """What the network says of the detections of an image."""
        was_training = self.model.training
        self.model.eval()
        graph = self.relating.graph(detections)
        inputs = [torch.from_numpy(values).to(self.device) for values in self.relating.inputs(graph).values()]
        outputs = self.model(*inputs)
        self.model.train(was_training)
        return self.relating.decode(graph, {name: values.float().cpu().numpy() for name, values in outputs.items()})


class _Examples(TorchDataset[Any]):
    """What is learned from each image.

    Args:
        learned: images, and the detections in each.
        relating: makes examples.
        faults: probability that a right whole gets a fault.
        seed: of chance.
    """

    def __init__(self, learned: tuple[Dataset, list[Detections]], relating: Any, faults: float, seed: int) -> None:
        self.dataset, self.found = learned
        self.relating, self.faults, self.seed = relating, faults, seed
        self._kept: dict[int, Any] = {}

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        found, truth = self.found[index], self.dataset.annotations(index)
        right = self.dataset.right.get(str(self.dataset.names[index]))
        rng = np.random.default_rng((self.seed, epoch, index))
        if right and rng.random() < self.faults:
            changed = with_fault(found, truth, rng)
            if changed is not None:
                return self._example(*changed, False)
        # Nothing else about an example is chance, so it is made once, as long as all of them fit into memory.
        if len(self.dataset) > _MOST_KEPT:
            return self._example(found, truth, right)
        if index not in self._kept:
            self._kept[index] = self._example(found, truth, right)
        return self._kept[index]

    def _example(self, found: Detections, truth: Annotations, right: bool | None) -> Any:
        return self.relating.example(self.relating.graph(found), truth, right)


def for_data(config: Any, train: Dataset, request: Request) -> Any:
    """``config`` with the answers whose truth ``train`` has, and the fields that its detections bring."""
    architecture = architecture_of(config)
    grouped = "group" in train.all_annotations.fields
    judged = len({train.right[name] for name in map(str, train.names) if name in train.right}) > 1
    # What is right as a whole is said of one image, not of two frames.
    answers = architecture.with_answers(config, grouped, judged and not train.frames)
    return architecture.with_fields(answers, seen_fields(train, request))


def report_relations(task: RelationsTask, model: Model, folder: Path) -> dict[str, float]:
    """Writes ``relations.json`` (:class:`RelationsReport`) into ``folder`` and returns the main metrics."""
    report = task.measure(model, next(model.parameters()).device)
    write_atomic(folder / "relations.json", msgspec.json.format(msgspec.json.encode(report)))
    keys = ("ap", "detector_ap", "labels", "detector_labels", "groups", "verdicts", "verdict_auc")
    return defined({key: getattr(report, key) for key in keys})
