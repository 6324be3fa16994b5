"""Puts the weights of any known file into a model, whole or backbone only, with an account of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from torch import Tensor

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.config import default_class_names
from phidet.architectures.dialects import DETECTOR_DIALECTS, Config, Dialect
from phidet.architectures.efficientdet.config import ASPECTS_2020, ASPECTS_OFFICIAL, ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import CheckpointError
from phidet.core.structs import replace
from phidet.weights.mapping import Mapped, check_shapes, misfit, to_ours, weights_of
from phidet.weights.native import read_config
from phidet.weights.read import read_tensors, recognise

PREDICTORS = ("class_head.predict.pointwise.", "linear.")
"""Our names of the layers whose first dimension depends on the number of classes."""
CLASSIFIER_HEAD = (
    "head.conv.weight",
    *(f"head.bn.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")),
    "linear.weight",
    "linear.bias",
)
"""Our names of what a classifier has and a detector does not need."""


class Source(NamedTuple):
    """A weight file that was read and understood.

    Attributes:
        path: where it lies.
        tensors: by our names in a file of ours, by canonical keys in a foreign one.
        config: what is inside a file of ours, else ``None``.
        dialect: what a foreign file speaks, else ``None``.
        beside: keys of tensors that belong to a trainer, not to the network that it holds.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: Config | None
    dialect: Dialect | None
    beside: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The dialect's name, "phidet" for our own."""
        return self.dialect.name if self.dialect else "phidet"

    @property
    def is_detector(self) -> bool:
        """Whether the file holds a whole detector, not just a backbone or classifier."""
        return isinstance(self.config, ModelConfig) or self.dialect in DETECTOR_DIALECTS


class LoadReport(NamedTuple):
    """What a load did.

    Attributes:
        path: the file.
        kind: its dialect.
        part: "all" or "backbone".
        loaded: number of tensors that came from the file.
        fresh: our tensors that keep their random start because the class count differs.
        ignored: tensors of the file without a place in the model (a classifier's head, what a trainer keeps).
    """

    path: Path
    kind: str
    part: str
    loaded: int
    fresh: list[str]
    ignored: list[str]

    def __str__(self) -> str:
        what = "backbone" if self.part == "backbone" else "all weights"
        text = f"{what} from {self.path} ({self.kind}, {self.loaded} tensors)"
        if self.fresh:
            text += f"; the class predictor starts fresh ({', '.join(self.fresh)})"
        if self.ignored:
            text += f"; {len(self.ignored)} other tensors are not used"
        return text


def open_source(path: str | Path) -> Source:
    """Reads a weight file and finds out what it is.

    Raises:
        CheckpointError: it cannot be read, or no dialect fits its keys.
    """
    path = Path(path)
    raw = read_tensors(path)
    config = read_config(raw, path)
    if config is not None:
        return Source(path, raw.tensors, config, None)
    try:
        known = recognise(raw.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    if known is None:
        keys = list(raw.tensors)[:3]
        raise CheckpointError(
            f"{path} holds {len(raw.tensors)} tensors in no layout that phidet knows (keys like {', '.join(keys)}): "
            "expected a phidet model file, or weights of google/automl, effdet, zylo117, timm, lukemelas or torchvision"
        )
    return Source(path, known.tensors, None, known.dialect, tuple(known.beside))


def class_count(source: Source, config: ModelConfig) -> int:
    """Number of classes that a detector file predicts; ``config`` says how many anchors share a predictor.

    Raises:
        CheckpointError: the predictor is missing or does not divide into the anchors.
    """
    if source.config is not None:
        return source.config.num_classes
    slot = source.dialect.slot("class_head.predict.pointwise.bias", config) if source.dialect else None
    bias = source.tensors.get(slot.keys[0]) if slot else None
    per_cell = config.anchors.per_cell
    if bias is None or bias.numel() % per_cell:
        raise CheckpointError(f"{source.path} has no class predictor for {per_cell} anchors per cell")
    return bias.numel() // per_cell


def adapt_config(config: ModelConfig, source: Source) -> ModelConfig:
    """``config`` with the class count of a foreign detector file, and the anchors its dialect was trained with.

    Raises:
        CheckpointError: the file has no fitting class predictor.
    """
    count = class_count(source, config)
    names = config.class_names if count == config.num_classes else default_class_names(count)
    anchors = config.anchors
    if source.dialect is not None and source.dialect.anchors_2020 and anchors.aspects_wh == ASPECTS_OFFICIAL:
        anchors = msgspec.structs.replace(anchors, aspects_wh=ASPECTS_2020)
    return replace(config, {"class_names": names, "anchors": anchors})


def adapt_classifier_config(config: ClassifierConfig, source: Source) -> ClassifierConfig:
    """``config`` with the class count of a foreign classifier file; as it is where the file has no last layer."""
    slot = source.dialect.slot("linear.bias", config) if source.dialect else None
    bias = source.tensors.get(slot.keys[0]) if slot else None
    if bias is None or bias.numel() == config.num_classes:
        return config
    return replace(config, {"class_names": default_class_names(bias.numel())})


def load_into(model: EfficientDet | Classifier, source: Source, replace_head: bool = False) -> LoadReport:
    """Copies the weights of ``source`` into ``model``.

    A detector takes all of a detector file and only the backbone of any other file; a classifier takes all of a
    classifier file. A predictor for another number of classes is replaced by a fresh one only with ``replace_head``.

    Raises:
        CheckpointError: tensors are missing, left over, or of the wrong shape. The model is unchanged then.
    """
    whole = isinstance(model, EfficientDet) == source.is_detector
    if not whole and isinstance(model, Classifier):
        raise CheckpointError(f"{source.path} ({source.kind}) is a detector, {model.config.name} is a classifier")
    expected = weights_of(model)
    if not whole:
        expected = {name: tensor for name, tensor in expected.items() if name.startswith("backbone.")}
    mapped = _map(source, model.config, expected)
    fresh = _predictors_to_replace(mapped.tensors, expected, model.config, source, replace_head)
    tensors = {name: tensor for name, tensor in mapped.tensors.items() if name not in fresh}
    missing = mapped.missing + [
        name for name in expected if name not in tensors and name not in fresh and not mapped.missing
    ]
    problems = {"missing": missing, "of the wrong shape": check_shapes(tensors, expected)}
    head = set() if whole else _head_keys(source, model.config)
    problems["unexpected"] = [key for key in mapped.unexpected if key not in head]
    if any(problems.values()):
        raise misfit(f"{source.path} ({source.kind})", model.config.name, problems)
    model.load_state_dict(tensors, strict=False)
    part = "all" if whole else "backbone"
    ignored = [*source.beside, *([] if whole else mapped.unexpected)]
    return LoadReport(source.path, source.kind, part, len(tensors), fresh, ignored)


def _map(source: Source, config: Config, expected: Mapping[str, Tensor]) -> Mapped:
    if source.dialect is not None:
        return to_ours(source.tensors, source.dialect, config, expected)
    ours = {name: tensor for name, tensor in source.tensors.items() if name in expected}
    missing = [name for name in expected if name not in ours]
    return Mapped(ours, missing, [name for name in source.tensors if name not in expected])


def _head_keys(source: Source, config: Config) -> set[str]:
    """Where a classifier file keeps the tensors that a backbone can do without."""
    if source.dialect is None:
        return set(CLASSIFIER_HEAD)
    slots = [source.dialect.slot(name, config) for name in CLASSIFIER_HEAD]
    return {key for slot in slots if slot for key in slot.keys}


def _predictors_to_replace(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: Config, source: Source, replace: bool
) -> list[str]:
    """Our predictor tensors whose class count differs from the file's.

    Raises:
        CheckpointError: there are some, and replacing them was not asked for.
    """
    names = [
        name
        for name, tensor in tensors.items()
        if name.startswith(PREDICTORS)
        and tensor.ndim == expected[name].ndim
        and tensor.shape[0] != expected[name].shape[0]
    ]
    if not names or replace:
        return names
    per_class = expected[names[0]].shape[0] // config.num_classes
    found = tensors[names[0]].shape[0] / per_class
    raise CheckpointError(
        f"{source.path} ({source.kind}) predicts {found:g} classes, {config.name} was asked for {config.num_classes}: "
        "leave the class count out to keep the file's, or pass replace_head=True to start a fresh class predictor"
    )
