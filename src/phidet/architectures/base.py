"""The interface of an architecture; everything outside ``architectures/`` uses networks only through it.

An :class:`Architecture` defines its networks, how images are prepared and how outputs are decoded. Its first half works
without PyTorch, as deployed detectors need it; the other methods import it when they are called. Other packages
register theirs: :mod:`phidet.architectures.registry`, ``docs/architecture.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from phidet.architectures.prepared import Placement, Prepared, stacked
from phidet.architectures.processes import Processes
from phidet.architectures.relating import Relating
from phidet.architectures.rows import PredictorRows
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.data.doctor.view import NetworkView
from phidet.detections.boxes import FloatArray
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.prepare import Preprocess, in_words, needed_to_fit, prepare

if TYPE_CHECKING:  # these need PyTorch
    import torch
    from torch import Tensor, nn

    from phidet.architectures.adversarial import Adversarial
    from phidet.architectures.batch import Batch
    from phidet.architectures.dialect import Dialect
    from phidet.architectures.evidence import ActivationMap
    from phidet.architectures.model import Model
    from phidet.architectures.program import GraphWriter, Program
    from phidet.architectures.published_file import PublishedFile
    from phidet.architectures.weights import Weights

Says: TypeAlias = Literal["boxes", "masks", "panoptic", "classes", "samples", "relations"]
"""What a network predicts: boxes of objects, their masks, a class for every pixel, a class for the whole image; that it
makes images: "samples"; or "relations" of detections, of which it sees no image."""


class NetworkConfig(Protocol):
    """Fields of every architecture's config, a frozen ``msgspec.Struct`` that is stored inside model files."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def image_size_hw(self) -> tuple[int, int]: ...

    @property
    def preprocess(self) -> Preprocess: ...


class Decoder(Protocol):
    """From the raw outputs for one image, by name and without the batch dimension, to detections.

    Raises:
        CheckpointError: the outputs are not finite.
        UnknownNameError: ``settings.classes`` names a class that the model does not have.
    """

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections: ...


class Loss(Protocol):
    """The training loss of an architecture."""

    def to(self, device: torch.device) -> None:
        """Moves the loss's tensors to ``device``; losses without any inherit this."""
        return

    def __call__(self, outputs: Any, batch: Any, processes: Processes) -> dict[str, Tensor]:
        """Losses by name; ``loss`` is minimised, the others are parts of it.

        ``outputs`` is what the network returned, ``batch`` what the task's loader gave: of images a
        :class:`~phidet.architectures.batch.Batch`. The mean of the processes' gradients is the gradient of the whole
        batch.
        """


ConfigT = TypeVar("ConfigT", bound=Any)


class Architecture(ABC, Generic[ConfigT]):
    """One kind of network.

    Attributes:
        name: in model files, for instance "efficientdet".
        config_type: a frozen ``msgspec.Struct`` with the fields of :class:`NetworkConfig`.
        says: what its networks predict.
        published_names: models with a fixed config that users can name.
        family_names: what φ can scale; see :meth:`scaled_config`.
        loss_settings: the loss's own settings with their defaults, which a recipe may set under ``loss``.
        learns_soft: whether the loss reads :attr:`Batch.soft`, so that another detector can teach these networks.
        recipe_names: training recipes of its own, beside the general ones; see :meth:`recipe_fields`.
        takes_valid_hw: whether its networks have a second input: the sizes of images without their padding.
        suppresses: whether duplicates of an object are removed after the network (NMS).
        added_parts: prefixes of tensors that a file may lack altogether, and which then start fresh.
        predictors: prefixes of tensors whose first dimension depends on the number of classes.
        extra_head: tensors that another architecture with the same backbone does not use.
        optional_outputs: names of further outputs that a file may have, which the decoder then uses.
    """

    name: str
    config_type: type[ConfigT]
    says: frozenset[Says] = frozenset({"boxes"})
    published_names: tuple[str, ...] = ()
    family_names: tuple[str, ...] = ()
    loss_settings: Mapping[str, Any] = MappingProxyType({})
    recipe_names: tuple[str, ...] = ()
    learns_soft: bool = False
    takes_valid_hw: bool = False
    suppresses: bool = True
    added_parts: tuple[str, ...] = ()
    predictors: tuple[str, ...] = ()
    extra_head: tuple[str, ...] = ()
    optional_outputs: tuple[str, ...] = ()

    # Without PyTorch

    @abstractmethod
    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> ConfigT:
        """The config of a published model, with its own classes by default.

        Raises:
            UnknownNameError: there is none of that name.
        """

    @abstractmethod
    def output_shapes(self, config: ConfigT) -> dict[str, tuple[int, ...]]:
        """Names and shapes, without the batch dimension, of what a network of ``config`` returns in exported files."""

    def prepare(self, config: ConfigT, image: npt.NDArray[np.uint8]) -> Prepared:
        """(H, W, 3) uint8 RGB as network input: scaled to fit, padded right and below, normalised."""
        array, scale = prepare(image, config.image_size_hw, config.preprocess)
        return Prepared(array, Placement(scale, (image.shape[0], image.shape[1])))

    def needed_hw(self, config: ConfigT, image_hw: tuple[int, int]) -> tuple[int, int]:
        """The least height and width that an image of ``image_hw`` pixels may be decoded at for :meth:`prepare`."""
        return image_hw if self.has_varying_size(config) else needed_to_fit(image_hw, config.image_size_hw)

    def has_varying_size(self, config: ConfigT) -> bool:
        """Whether images differ in size as network input; ``config.image_size_hw`` then is only the usual size."""
        return False

    def resizing(self, config: ConfigT) -> str:
        """How :meth:`prepare` resizes an image, in words for readers of exported files."""
        return in_words(config.image_size_hw, config.preprocess)

    def network_inputs(self, prepared: Sequence[Prepared]) -> tuple[npt.NDArray[Any], ...]:
        """Prepared images of one size as what a network is called with."""
        return stacked(prepared)[: 2 if self.takes_valid_hw else 1]

    @abstractmethod
    def decoder(self, config: ConfigT) -> Decoder:
        """The decoder of a network of ``config``: from raw outputs to detections."""

    def relating(self, config: ConfigT) -> Relating:
        """How a network of ``config`` relates detections; ConfigError where it does not."""
        raise ConfigError(f"{config.name} detects in images: expected a network that relates detections")

    def with_answers(self, config: ConfigT, grouped: bool, judged: bool) -> ConfigT:
        """``config`` of a network that relates detections, with the answers that can be learned: of ``grouped`` data it
        is known which objects belong together, of ``judged`` ones which images show something complete and right."""
        return config

    def with_fields(self, config: ConfigT, fields: Mapping[str, int]) -> ConfigT:
        """``config`` of a network that relates detections, which also sees these fields: name → numbers for each."""
        return config

    def summary(self, config: ConfigT) -> list[tuple[str, str]]:
        """Further lines of ``phidet info`` for a network: (subject, text)."""
        return []

    def published_metrics(self, config: ConfigT) -> object | None:
        """The metrics that the paper reports for this network; ``None`` if it has none."""
        return None

    def doctor_view(self, config: ConfigT) -> NetworkView:
        """What ``phidet doctor`` checks a data set against; with anchor coverage if there are anchors."""
        return NetworkView(config.name, config.image_size_hw, None)

    def mask_stride(self, config: ConfigT) -> int | None:
        """Pixels of the input for one of the masks to learn from, along a side; ``None`` where no masks are learned."""
        return 1 if self.says & {"masks", "panoptic"} else None

    def finds(self, config: ConfigT) -> frozenset[str]:
        """What a network of ``config`` finds beside boxes: "masks" of objects, "segments" of all the image."""
        return frozenset() if self.mask_stride(config) is None else frozenset({"masks"})

    def smallest_map_hw(self, config: ConfigT) -> tuple[int, int]:
        """Height and width of the smallest feature map in training; batch norm needs two values per channel."""
        height, width = config.image_size_hw
        return -(-height // 32), -(-width // 32)

    def for_classes(self, config: ConfigT, class_names: tuple[str, ...]) -> ConfigT:
        """``config`` for training on data with these classes."""
        return replace(config, {"class_names": class_names})

    def resized(self, config: ConfigT, size_hw: tuple[int, int]) -> ConfigT:
        """``config`` for another input size, (height, width) in pixels; raises ConfigError if that is unsupported."""
        changed: ConfigT = replace(config, {"image_size_hw": size_hw})
        return changed

    def recipe_fields(self, name: str, num_images: int) -> Mapping[str, Any]:
        """Fields of the training recipe ``name`` that this architecture sets otherwise than the general recipe.

        Args:
            name: "auto", one of the general recipes, or one of :attr:`recipe_names`, of which all fields without a
                default are here.
            num_images: to train on.
        """
        return {}

    # With PyTorch

    @abstractmethod
    def build(self, config: ConfigT) -> Model:
        """A network with fresh weights."""

    @abstractmethod
    def loss(self, config: ConfigT, settings: Mapping[str, Any]) -> Loss:
        """The training loss; ``settings`` has the fields of :attr:`loss_settings`.

        Raises:
            ConfigError: a value out of range.
        """

    def adversarial(self, config: ConfigT, settings: Mapping[str, Any]) -> Adversarial:
        """What trains a generator, from the fields of :attr:`loss_settings`; ConfigError where nothing makes images."""
        raise ConfigError(f"{self.name} networks make no images")

    def training_outputs(self, model: Any, images: Tensor, batch: Batch, settings: Mapping[str, Any]) -> Any:
        """What the loss reads: the outputs of ``model``, which may be wrapped for several processes.

        Networks that need more in training than images (B, 3, H, W), normalised, and what of them is padding, such as
        the objects, get it here, in one call of ``model``. ``settings`` are the loss's, as for :meth:`loss`.
        """
        return model(images, batch.valid_hw) if self.takes_valid_hw else model(images)

    def named_outputs(self, outputs: Any) -> dict[str, Tensor]:
        """The network's outputs by name, from a named tuple or a mapping."""
        return dict(outputs) if isinstance(outputs, Mapping) else dict(outputs._asdict())

    def lower_arrays(self, config: ConfigT, weights: Weights) -> Program | None:
        """A network's operations from its weights, without PyTorch, for exports; ``None`` if only :meth:`lower` can."""
        return None

    def lower(self, model: Any) -> Program | None:
        """``model`` as operations for PyTorch and other runtimes; ``None`` to use the general exporter."""
        return None

    def extend_graph(self, graph: GraphWriter, config: ConfigT) -> dict[str, tuple[int, ...]]:
        """Adds outputs to an ONNX graph that are cheaper to compute inside it; returns their names and shapes."""
        return {}

    def agreement(
        self, config: ConfigT, ours: Mapping[str, FloatArray], theirs: Mapping[str, FloatArray]
    ) -> tuple[float, float]:
        """How well an export's outputs for one image agree with PyTorch's: (mean score difference, mean IoU of boxes).

        The general rule: every output's root mean square difference in units of its standard deviation, the largest
        of which stands for the scores.
        """
        worst = max(
            float(np.sqrt(np.mean((theirs[name] - ours[name]) ** 2)) / max(float(ours[name].std()), 1e-6))
            for name in self.output_shapes(config)
        )
        return worst, 1.0

    def dialects(self) -> tuple[Dialect, ...]:
        """The dialects in which other projects keep these weights."""
        return ()

    def adapt_config(self, config: ConfigT, find: Callable[[str], Tensor | None], dialect: Dialect) -> ConfigT:
        """``config`` with the class count and other settings that a foreign file determines.

        Args:
            config: of the published model that the file is assumed to hold.
            find: our name of a tensor → the file's tensor, ``None`` if it has none.
            dialect: of the file.

        Raises:
            CheckpointError: the file has no fitting class predictor.
        """
        return config

    def dialect_note(self, config: ConfigT, dialect: Dialect) -> str:
        """Advice for readers of ``config``'s weights in that dialect, or ""."""
        return ""

    def weights_key(self, config: ConfigT) -> object:
        """A key that is equal for configs whose networks can exchange weights."""
        return replace(config, {"class_names": ("any",)})

    def start_config(self, wanted: ConfigT, held: ConfigT) -> ConfigT:
        """The config of a network like ``wanted`` that starts from a file of ours with ``held``, of equal key."""
        return held

    def predictor_rows(self, name: str, config: ConfigT) -> PredictorRows | None:
        """How rows of a tensor of :attr:`predictors` belong to classes; ``None`` where they do not go on by name."""
        return None

    @property
    def takes_foreign_backbones(self) -> bool:
        """Whether a network may take its backbone from a file of another architecture."""
        return True

    def pretrained_file(self, config: ConfigT, start: str, published: str | None) -> PublishedFile | None:
        """The published weights that the word ``start`` ("coco", "backbone", "imagenet") means; ``None`` if unknown.

        Raises:
            ConfigError, UnknownNameError: nothing of that kind is published for ``config``.
        """
        return None

    @property
    def pretrained_words(self) -> tuple[str, ...]:
        """The words that :meth:`pretrained_file` accepts."""
        return ()

    def scaled_config(self, phi: float, family: object) -> ConfigT:
        """The config that the architecture's law gives for the compound coefficient ``phi``.

        Args:
            phi: −2 to 10, whole or not.
            family: what φ scales: a name, an object of the architecture's own, or ``None`` for the usual one.

        Raises:
            ConfigError: there is no law, or ``phi`` is out of range.
            UnknownNameError: no such family.
        """
        raise ConfigError(f"{self.name} has no law for φ: choose a model by name")

    def with_drop_path(self, config: ConfigT, drop_path: float) -> ConfigT:
        """``config`` with another probability of dropping blocks in training (stochastic depth).

        Raises:
            ConfigError: the network has no such blocks.
        """
        raise ConfigError(f"{self.name} networks have no blocks to drop: leave drop_path out of the recipe")

    def recomputed_blocks(self, model: nn.Module) -> list[nn.Module]:
        """Blocks whose activations may be recomputed in the backward pass, to save memory."""
        return []

    def class_names(self, config: ConfigT) -> tuple[str, ...]:
        """Readable names of the classes, also if the config only numbers them."""
        return tuple(config.class_names)

    def feature_maps(self, model: Any, images: Tensor) -> Mapping[int, Tensor]:
        """What the heads see of normalised images (B, 3, H, W): level l → (B, C, H / 2^l, W / 2^l).

        Raises:
            ConfigError: this architecture has no such maps.
        """
        raise ConfigError(f"{self.name} networks have no feature maps to take an appearance from")

    def explain(
        self, model: Any, image: npt.NDArray[np.uint8], class_id: int | None, limit: int
    ) -> list[ActivationMap]:
        """Activation maps for up to ``limit`` predictions; only those of ``class_id`` if given.

        Raises:
            ConfigError: this architecture has no such maps.
        """
        raise ConfigError(f"{self.name} networks cannot be explained: there is no map of evidence for their answers")

    def explain_point(self, model: Any, image: npt.NDArray[np.uint8], point_xy: tuple[float, float]) -> ActivationMap:
        """Where else in the image the network looks from a point in its pixels; raises as :meth:`explain`."""
        raise ConfigError(f"{self.name} networks attend from no point: leave out --point")


def resolved_loss(architecture: Architecture[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an architecture's loss: ``settings`` and defaults for the others.

    Raises:
        UnknownNameError: the loss has no such setting.
    """
    for key in settings:
        if key not in architecture.loss_settings:
            raise UnknownNameError(f"loss setting of {architecture.name}", key, architecture.loss_settings)
    return {**architecture.loss_settings, **settings}
