"""Generation: crops of objects, two networks, and how far made images are from real ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from phidet.architectures.adversarial import Adversarial
from phidet.architectures.adversarial_config import GeneratorConfig
from phidet.architectures.base import NetworkConfig, resolved_loss
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, InputError
from phidet.core.files import write_atomic_with
from phidet.data.crops import CropImages, crops_of
from phidet.data.dataset import Dataset
from phidet.evaluation.generation import frechet_distance
from phidet.inference.generator import ImageGenerator, image_grid
from phidet.inference.runtimes.torch_generator import TorchGenerator
from phidet.training.adversarial import TwoNetworks
from phidet.training.base import TrainingTask
from phidet.training.features import Lite0Features, open_features
from phidet.training.generate_loading import ShownImages, TrainCrops
from phidet.training.loading import EpochSampler, train_loader
from phidet.training.recipe import Recipe

if TYPE_CHECKING:
    from phidet.training.fit import RunSettings

MEASURED = 2000
"""Images of each kind, at most, that are compared after an epoch."""
_ROWS, _COLUMNS = 8, 12  # of the sample sheet


class GenerateTask(TrainingTask):
    """A generator that learns to make objects like those of a data set.

    Args:
        config: of the generator.
        train: the images whose objects are learned.
    """

    metrics = {"distance": "Lite0 distance"}  # noqa: RUF012 - read only
    lower_is_better = True
    loss_falls = False  # that of the discriminator rises while the generator gets better
    optimizer = "adam"

    def __init__(self, config: NetworkConfig, train: Dataset) -> None:
        self.config, self.train = cast("GeneratorConfig", config), train
        self.crops = crops_of(train)
        if len(self.crops) < 2:
            what = f"{train.name} has {len(self.crops)} objects that a generator could learn"
            raise InputError(f"{what}: expected two or more")
        self._adversary: Adversarial | None = None

    @property
    def val_name(self) -> str | None:
        return f"{self.train.name}, {len(self.crops)} objects" if self.features is not None else None

    @cached_property
    def features(self) -> Lite0Features | None:
        """What compares images; ``None`` where its weights cannot be had."""
        return open_features("made images are not measured while training")

    @cached_property
    def real_features(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Of the crops, or of some drawn once where there are many."""
        assert self.features is not None
        crops = CropImages(self.train, self.config.image_size_hw[0], self.config.context, MEASURED)
        return np.concatenate([self.features(batch) for batch in crops.batches()])

    def epoch_images(self, recipe: Recipe) -> int:
        return self.adversary(recipe).epoch_images

    def adversary(self, recipe: Recipe) -> Adversarial:
        """The discriminator and the losses, built once."""
        if self._adversary is None:
            architecture = architecture_of(self.config)
            self._adversary = architecture.adversarial(self.config, resolved_loss(architecture, recipe.loss))
        return self._adversary

    def sampler(self, recipe: Recipe, seed: int, rank: int, size: int) -> ShownImages:
        return ShownImages(
            len(self.crops), self.adversary(recipe), recipe, seed, (rank, size), self._repeats(recipe.class_balance)
        )

    def _repeats(self, share: float) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """How often each crop comes: classes on a smaller share of the crops than ``share`` come more often."""
        if not share:
            return None
        class_ids = np.array([crop.class_id for crop in self.crops])
        shares = np.bincount(class_ids, minlength=self.config.num_classes) / len(class_ids)
        repeats: np.ndarray[Any, np.dtype[np.float64]] = (share / shares[class_ids]).clip(min=1)
        return repeats

    def loader(self, recipe: Recipe, seed: int, sampler: EpochSampler, workers: int) -> DataLoader[Any]:
        size, context = self.config.image_size_hw[0], self.config.context
        crops = TrainCrops(self.train, self.crops, size, context, recipe.augmentation.flip, seed)
        # What lies in memory is faster without processes.
        return train_loader(crops, sampler, workers if crops.pixels is None else 0, default_collate)

    def learner(self, fabric: Fabric, model: Model, recipe: Recipe, settings: RunSettings) -> TwoNetworks:
        if recipe.precision != "32-true" or recipe.accumulate != 1 or settings.save_memory or settings.compile:
            raise ConfigError(
                "generators are trained in 32 bits, one update a step: leave out --precision, --compile, --save-memory "
                "and accumulate"
            )
        torch.manual_seed(settings.seed + 1)  # the discriminator's fresh weights, in every process the same
        adversary = self.adversary(recipe)
        model.to(fabric.device)
        num_classes = self.config.num_classes if self.config.labelled else 0
        return TwoNetworks(fabric, model, adversary, recipe, settings.seed, num_classes)

    def losses(self, fabric: Fabric, model: Any, batch: Any, recipe: Recipe) -> NoReturn:
        raise NotImplementedError("two networks have a loss each: TwoNetworks computes them")

    def evaluate(self, fabric: Fabric, model: Any, recipe: Recipe, workers: int) -> dict[str, float]:
        assert self.features is not None
        # At least 500, enough for statistics, also where there are fewer objects.
        count = min(MEASURED, max(len(self.crops), 500))
        generator = _generator(model)
        styles = generator.styles(generator.latents(count, 1), self._class_ids(count) if self.config.labelled else None)
        made = np.concatenate([self.features(batch) for batch in generator.batches(styles, 1)])
        return {"distance": frechet_distance(self.real_features, made)}

    def _class_ids(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Classes as they occur in the data, spread evenly."""
        ids = np.sort([crop.class_id for crop in self.crops])
        return ids[np.arange(count) * len(ids) // count].astype(np.int64)

    def show(self, model: Any, folder: Path, epoch: int) -> None:
        """A sheet of samples, the same latents in every epoch, without truncation; classes row by row."""
        class_ids = None
        if self.config.labelled:
            class_ids = np.repeat(np.arange(_ROWS) % self.config.num_classes, _COLUMNS)
        sheet = image_grid(_generator(model).sample(_ROWS * _COLUMNS, 0, class_ids), _COLUMNS)
        path = folder / "samples" / f"epoch-{epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomic_with(path, lambda out: Image.fromarray(sheet).save(out, format="png"))


def _generator(model: Any) -> ImageGenerator:
    model.eval()
    return ImageGenerator(TorchGenerator(model))
