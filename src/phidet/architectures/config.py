"""What a model is, as plain frozen data; JSON in and out, unknown keys refused.

A config holds every choice that decides what a network computes and how its input and output are to be read.
It travels inside the model file, so that a file needs nothing beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, TypeVar, get_args

import msgspec

from phidet.architectures.efficientdet.graphs import GRAPHS, FeatureGraph, build_graph
from phidet.core.errors import ConfigError, UnknownNameError

Architecture = Literal[
    "efficientnet",
    "efficientnet-lite",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet-v2",
]
Fusion = Literal["sum", "unbounded", "softmax", "fast"]
Activation = Literal["silu", "relu6", "relu"]

ASPECTS_OFFICIAL = ((1.0, 1.0), (math.sqrt(2), 1 / math.sqrt(2)), (1 / math.sqrt(2), math.sqrt(2)))
"""(width, height) factors in today's official code, so in the official ``.h5`` files."""
ASPECTS_2020 = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""(width, height) factors in the official code of mid 2020 and in the PyTorch ports (``effdet``, zylo117)."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_one_of(kind: str, value: str, choices: object) -> None:
    """``choices`` is one of the literals above. From JSON msgspec checks them, from Python nobody does."""
    if value not in get_args(choices):
        raise UnknownNameError(kind, value, get_args(choices))


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pixels become network input: ``(pixel - mean_rgb) / std_rgb``, channel by channel, pixels 0–255, RGB."""

    mean_rgb: tuple[float, float, float] = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std_rgb: tuple[float, float, float] = (0.229 * 255, 0.224 * 255, 0.225 * 255)

    def __post_init__(self) -> None:
        _require(all(math.isfinite(m) for m in self.mean_rgb), f"mean_rgb must be finite, got {self.mean_rgb}")
        _require(all(math.isfinite(s) and s > 0 for s in self.std_rgb), f"std_rgb must be > 0, got {self.std_rgb}")


IMAGENET = Preprocess()
"""ImageNet mean and deviation: EfficientNet-B and EfficientDet-D."""
LITE = Preprocess(mean_rgb=(127.0, 127.0, 127.0), std_rgb=(128.0, 128.0, 128.0))
"""To about −1…1: EfficientNet-Lite and EfficientDet-Lite."""


class BackboneConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backbone: a published architecture, with its widths and depths multiplied.

    ``drop_path`` is the probability of leaving out the last residual block in training (stochastic depth, growing
    linearly with depth; the papers' 1 − survival probability).
    """

    architecture: Architecture
    width: float = 1.0
    depth: float = 1.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        _require_one_of("architecture", self.architecture, Architecture)
        for name in ("width", "depth"):
            value = getattr(self, name)
            _require(math.isfinite(value) and 0 < value <= 16, f"backbone {name} must be in (0, 16], got {value!r}")
        _require(0 <= self.drop_path < 1, f"drop_path must be in [0, 1), got {self.drop_path!r}")


class FeatureNetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature network: a graph (by name, or described in full), how its nodes fuse, how wide, how often.

    ``resolved_graph`` is the graph that will run.
    """

    channels: int
    repeats: int
    graph: str | FeatureGraph = "bifpn"
    fusion: Fusion = "fast"
    min_level: int = 3
    max_level: int = 7

    def __post_init__(self) -> None:
        _require(self.channels >= 1, f"feature network channels must be ≥ 1, got {self.channels}")
        _require(self.repeats >= 1, f"feature network repeats must be ≥ 1, got {self.repeats}")
        _require(
            1 <= self.min_level <= 5 and self.min_level < self.max_level <= 10,
            f"levels must satisfy 1 ≤ min_level ≤ 5 and min_level < max_level ≤ 10, "
            f"got {self.min_level}..{self.max_level}",
        )
        _require_one_of("fusion", self.fusion, Fusion)
        if isinstance(self.graph, str) and self.graph not in GRAPHS:
            raise UnknownNameError("feature network", self.graph, GRAPHS)
        graph = self.resolved_graph
        _require(
            (graph.min_level, graph.max_level) == (self.min_level, self.max_level),
            f"graph {graph.name!r} stands on levels {graph.min_level}..{graph.max_level}, "
            f"the feature network on {self.min_level}..{self.max_level}",
        )

    @property
    def resolved_graph(self) -> FeatureGraph:
        """The graph itself, built where the config has only its name."""
        if isinstance(self.graph, FeatureGraph):
            return self.graph
        return build_graph(self.graph, self.min_level, self.max_level)

    @property
    def levels(self) -> range:
        """Levels that leave the feature network, finest first; level l has stride 2^l."""
        return range(self.min_level, self.max_level + 1)


class AnchorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anchors of one cell: ``octaves`` sizes ``scale · stride · 2^(i/octaves)`` times every (width, height) aspect."""

    scale: float = 4.0
    octaves: int = 3
    aspects_wh: tuple[tuple[float, float], ...] = ASPECTS_OFFICIAL

    def __post_init__(self) -> None:
        _require(math.isfinite(self.scale) and self.scale > 0, f"anchor scale must be > 0, got {self.scale!r}")
        _require(self.octaves >= 1, f"anchor octaves must be ≥ 1, got {self.octaves}")
        _require(
            len(self.aspects_wh) > 0 and all(math.isfinite(side) and side > 0 for wh in self.aspects_wh for side in wh),
            f"anchor aspects_wh must be pairs of positive (width, height), got {self.aspects_wh}",
        )

    @property
    def per_cell(self) -> int:
        """Anchors of one cell of a feature map."""
        return self.octaves * len(self.aspects_wh)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A detector, whole. ``image_size_hw`` is the input size it was made for; any other size works as well."""

    name: str
    backbone: BackboneConfig
    feature_network: FeatureNetworkConfig
    head_layers: int
    activation: Activation
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    anchors: AnchorConfig = AnchorConfig()
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        _require_one_of("activation", self.activation, Activation)
        _require(self.head_layers >= 0, f"head_layers must be ≥ 0, got {self.head_layers}")
        coarsest = 2**self.feature_network.max_level
        _require(
            all(side >= coarsest for side in self.image_size_hw),
            f"image size {self.image_size_hw[0]}×{self.image_size_hw[1]} is smaller than the coarsest stride, "
            f"{coarsest} (level {self.feature_network.max_level}): use a larger image size or fewer levels",
        )
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Real classes; ids are 0…num_classes − 1 and there is no background class."""
        return len(self.class_names)

    @property
    def num_anchors(self) -> int:
        """Anchors of an image of ``image_size_hw``, all levels together."""
        height, width = self.image_size_hw
        cells = sum(-(-height // 2**level) * -(-width // 2**level) for level in self.feature_network.levels)
        return int(cells) * self.anchors.per_cell


class ClassifierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image classifier on a backbone. ``head_channels`` is the width of the last 1×1 convolution, 0 for none."""

    name: str
    backbone: BackboneConfig
    head_channels: int
    dropout: float
    image_size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        _require(self.head_channels >= 0, f"head_channels must be ≥ 0, got {self.head_channels}")
        _require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout!r}")
        _require(min(self.image_size_hw) >= 32, f"image size must be at least 32 pixels, got {self.image_size_hw}")
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes; ids are 0…num_classes − 1."""
        return len(self.class_names)


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` as a tuple.

    Raises:
        ConfigError: none, an empty one, or one that occurs twice.
    """
    _require(isinstance(names, list | tuple), f"class_names must be a list of names, got {_kind(names)} {names!r}")
    _require(len(names) >= 1, "a model needs at least one class, got none")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        _require(isinstance(name, str) and bool(name.strip()), f"class name {i} must be non-empty text, got {name!r}")
        _require(name not in seen, f"class names must differ: {name!r} is both {seen.get(name)} and {i}")
        seen[name] = i
    return tuple(names)


def _kind(value: object) -> str:
    return "one string" if isinstance(value, str) else f"a {type(value).__name__}"


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Names for a bare class count: class-0, class-1, ….

    Raises:
        ConfigError: ``num_classes`` is not a whole number ≥ 1.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 1:
        raise ConfigError(
            f"num_classes must be a whole number ≥ 1, got {num_classes!r}: count real classes only, "
            "there is no background class"
        )
    return tuple(f"class-{i}" for i in range(int(num_classes)))


ConfigT = TypeVar("ConfigT", ModelConfig, ClassifierConfig)


def to_json(config: ModelConfig | ClassifierConfig) -> str:
    """``config`` as JSON text."""
    return msgspec.json.encode(config).decode()


def from_json(text: str | bytes, kind: type[ConfigT]) -> ConfigT:
    """The config that ``text`` describes.

    Raises:
        ConfigError: not JSON, an unknown or missing key, a value of the wrong type or out of range. The message
            names the key's path.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config does not fit: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"config is not valid JSON: {error}") from error


def replace(config: ConfigT, changes: dict[str, Any]) -> ConfigT:
    """``config`` with some fields changed, checked again.

    Raises:
        UnknownNameError: a key that the config does not have.
        ConfigError: the result is not possible.
    """
    fields = config.__struct_fields__
    for key in changes:
        if key not in fields:
            raise UnknownNameError("config key", key, fields)
    return msgspec.structs.replace(config, **changes)
