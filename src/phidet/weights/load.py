"""Loads the weights of any known file into a model, whole or backbone only, and reports on every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from phidet.architectures.base import Architecture
from phidet.architectures.dialect import Dialect
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError
from phidet.weights.class_rows import Carried, carry, fits, same_classes
from phidet.weights.dialects import known_dialects
from phidet.weights.mapping import check_shapes, mismatch_error, same_names, to_ours, weights_of
from phidet.weights.native import read_config
from phidet.weights.read import read_tensors, recognise


class Source(NamedTuple):
    """A weight file, read and identified.

    Attributes:
        path: the file.
        tensors: by our names in a file of ours, by canonical keys in a foreign one.
        architecture: of the network whose weights it holds.
        config: from a file of ours, else ``None``.
        dialect: of a foreign file, else ``None``.
        beside: keys of tensors that belong to a training framework, not to the network.
    """

    path: Path
    tensors: dict[str, Tensor]
    architecture: Architecture[Any]
    config: Any | None
    dialect: Dialect | None
    beside: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The dialect's name, "phidet" for our own."""
        return self.dialect.name if self.dialect else "phidet"

    def find(self, name: str, config: Any) -> Tensor | None:
        """The tensor named ``name`` in phidet, in the file's own layout; ``None`` if the file has none."""
        if self.dialect is None:
            return self.tensors.get(name)
        # Of several keys the first is enough: what is asked for is how many rows a predictor has.
        slot = self.dialect.slot(name, config)
        return self.tensors.get(slot.keys[0]) if slot else None

    def adapt(self, config: Any) -> Any:
        """``config`` with the settings that a foreign file determines: its class count, the anchors of its training.

        Raises:
            CheckpointError: the file has no fitting class predictor.
        """
        assert self.dialect is not None
        try:
            return self.architecture.adapt_config(config, lambda name: self.find(name, config), self.dialect)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


class LoadReport(NamedTuple):
    """The result of loading weights.

    Attributes:
        path: the file.
        kind: its dialect.
        part: "all" or "backbone".
        loaded: number of tensors that came from the file.
        fresh: our tensors that keep their random initialisation because the class count differs.
        added: our tensors that start fresh because the file is of a network without that part.
        ignored: tensors of the file without a place in the model (a classifier's head, a trainer's state).
        carried: which classes of the predictor go on from the file's, where those have other names or another order.
    """

    path: Path
    kind: str
    part: str
    loaded: int
    fresh: list[str]
    ignored: list[str]
    added: tuple[str, ...] = ()
    carried: Carried | None = None

    def __str__(self) -> str:
        what = "backbone" if self.part == "backbone" else "all weights"
        text = f"{what} from {self.path} ({self.kind}, {self.loaded} tensors)"
        if self.carried is not None:
            text += f"; {self.carried}"
        if self.fresh:
            text += f"; the class predictor starts fresh ({', '.join(self.fresh)})"
        if self.added:
            text += f"; {len(self.added)} tensors of a part that the file lacks start fresh ({self.added[0]}, …)"
        if self.ignored:
            text += f"; {len(self.ignored)} other tensors are not used"
        return text


def open_source(path: str | Path) -> Source:
    """Reads a weight file and identifies its format.

    Raises:
        CheckpointError: it cannot be read, or no dialect matches its keys.
    """
    path = Path(path)
    raw = read_tensors(path)
    config = read_config(raw, path)
    if config is not None:
        return Source(path, raw.tensors, architecture_of(config), config, None)
    try:
        # Not one of ours: the keys of the tensors tell which project wrote it.
        known = recognise(raw.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    if known is None:
        keys = list(raw.tensors)[:3]
        raise CheckpointError(
            f"{path} holds {len(raw.tensors)} tensors in no layout that phidet knows (keys like {', '.join(keys)}): "
            "expected a phidet model file, or weights of google/automl, effdet, zylo117, timm, lukemelas or torchvision"
        )
    architecture, dialect = known_dialects()[known.dialect.name]
    return Source(path, known.tensors, architecture, None, dialect, tuple(known.beside))


def load_into(
    model: Model, source: Source, replace_head: bool = False, held_names: Sequence[str] | None = None
) -> LoadReport:
    """Copies the weights of ``source`` into ``model``.

    A model takes all of a file of its own architecture, and a detector only the backbone of a classifier's file. A
    predictor for other classes is replaced only with ``replace_head``: where the file's classes are known, its rows go
    on for classes of the same name (:func:`phidet.weights.class_rows.same_classes`), and the others start fresh.

    Args:
        model: is changed.
        source: the file.
        replace_head: whether the model's classes may be others than the file's.
        held_names: the file's classes; ``None`` to go by their number alone.

    Raises:
        CheckpointError: tensors are missing, left over, or of the wrong shape. The model is unchanged then.
    """
    architecture = architecture_of(model.config)
    whole = architecture is source.architecture
    if not whole and not architecture.takes_foreign_backbones:
        both = (source.architecture, architecture)
        theirs, ours = ("a classifier" if "classes" in each.says else "a detector" for each in both)
        raise CheckpointError(f"{source.path} ({source.kind}) is {theirs}, {model.config.name} is {ours}")
    # A detector may start from a classifier's backbone: only those tensors are asked for then.
    expected = weights_of(model)
    if not whole:
        expected = {name: tensor for name, tensor in expected.items() if name.startswith("backbone.")}
    if source.dialect is None:
        mapped = same_names(source.tensors, expected)
    else:
        mapped = to_ours(source.tensors, source.dialect, model.config, expected)
    carried = _carry_rows(mapped.tensors, model, held_names) if whole and replace_head and held_names else None
    fresh = _predictors_to_replace(mapped.tensors, expected, model.config, source, replace_head)
    # A part may be missing as a whole only: half of one is a damaged file.
    absent = tuple(p for p in architecture.added_parts if not any(name.startswith(p) for name in mapped.tensors))
    added = tuple(name for name in expected if name.startswith(absent))
    # All problems are collected before anything is copied: an error names them together and leaves the model unchanged.
    tensors = {name: tensor for name, tensor in mapped.tensors.items() if name not in fresh}
    missing = [name for name in mapped.missing if name not in added]
    missing += [name for name in expected if name not in {*tensors, *fresh, *added} and not missing]
    problems = {"missing": missing, "of the wrong shape": check_shapes(tensors, expected)}
    # A classifier's last layer is left over on purpose; anything else that is left over is a mistake.
    head = set() if whole else _head_keys(source, model.config)
    problems["unexpected"] = [key for key in mapped.unexpected if key not in head]
    if any(problems.values()):
        raise mismatch_error(f"{source.path} ({source.kind})", model.config.name, problems)
    # Not strict: the counters of batch norms, fresh predictors and added parts are not among the tensors.
    model.load_state_dict(tensors, strict=False)
    part = "all" if whole else "backbone"
    ignored = [*source.beside, *([] if whole else mapped.unexpected)]
    return LoadReport(source.path, source.kind, part, len(tensors), fresh, ignored, added, carried)


def _carry_rows(tensors: dict[str, Tensor], model: Model, held_names: Sequence[str]) -> Carried | None:
    """Puts rows of class predictors among ``tensors`` where the model has them; ``None`` if they stay as they are."""
    config, architecture, ours = model.config, architecture_of(model.config), weights_of(model)
    wanted = config.class_names
    if tuple(held_names) == tuple(wanted):
        return None
    matches = same_classes(held_names, wanted)
    pairs = tuple((name, held_names[at]) for name, at in zip(wanted, matches, strict=True) if at is not None)
    carried = Carried(pairs, tuple(name for name, at in zip(wanted, matches, strict=True) if at is None))
    for name in [name for name in tensors if name.startswith(architecture.predictors)]:
        rows = architecture.predictor_rows(name, config)
        if rows is None or not fits(tensors[name], ours[name], rows, (len(held_names), len(wanted))):
            return None
        if pairs:
            tensors[name] = carry(tensors[name], ours[name], rows, matches)
        elif tensors[name].shape == ours[name].shape:
            tensors[name] = ours[name].clone()  # as many classes, and all others
    return carried


def _head_keys(source: Source, config: Any) -> set[str]:
    """Keys in the file of the tensors that a backbone does not need."""
    if source.dialect is None:
        return {name for name in source.tensors if not name.startswith("backbone.")}
    slots = [source.dialect.slot(name, config) for name in source.architecture.extra_head]
    return {key for slot in slots if slot for key in slot.keys}


def _predictors_to_replace(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: Any, source: Source, replace: bool
) -> list[str]:
    """Our predictor tensors whose class count differs from the file's.

    Raises:
        CheckpointError: there are some, and ``replace`` is false.
    """
    names = [
        name
        for name, tensor in tensors.items()
        if name.startswith(source.architecture.predictors)
        and tensor.ndim == expected[name].ndim
        and tensor.shape[0] != expected[name].shape[0]
    ]
    if not names or replace:
        return names
    # A box predictor may have several rows per class (one for each anchor), which the division takes out.
    per_class = expected[names[0]].shape[0] // config.num_classes
    found = tensors[names[0]].shape[0] / per_class
    raise CheckpointError(
        f"{source.path} ({source.kind}) predicts {found:g} classes, {config.name} was asked for {config.num_classes}: "
        "leave the class count out to keep the file's, or pass replace_head=True to start a fresh class predictor"
    )
