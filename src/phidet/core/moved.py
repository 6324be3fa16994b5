"""Module paths of version 0.1, which still import and say where their contents are now.

The modules moved into rooms; scripts written for 0.1 go on working, with a ``DeprecationWarning``. The public names of
``phidet`` itself (``phidet.Detector``, ``phidet.train``, …) are unaffected.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from itertools import product
from types import ModuleType

_ROOMS = {
    "bench": "inference.bench",
    "doctor": "data.doctor",
    "learn": "training",
    "metrics": "evaluation",
    "runtime": "inference.runtimes",
    "sinks": "detections.sinks",
}
"""Packages that moved as they were: old name → new name, without ``phidet.``."""
_BACKBONES, _EFFICIENTDET = "architectures.backbones", "architectures.efficientdet"
_FEATURES = "architectures.feature_networks"
_MODULES: dict[str, tuple[str, ...]] = {
    "anchors": (f"{_EFFICIENTDET}.anchors",),
    "architectures.efficientdet.feature_network": (f"{_FEATURES}.network",),
    "architectures.efficientdet.graphs": (f"{_FEATURES}.graphs",),
    "boxes": ("detections.boxes",),
    "coco": ("data.coco_classes",),
    "config": (
        *(f"{_EFFICIENTDET}.config", f"{_BACKBONES}.config", "architectures.classifier.config"),
        *(f"{_FEATURES}.config", "architectures.config", "core.structs", "images.prepare"),
    ),
    "cores": ("core.machine",),
    "data.images": ("images.decode",),
    "detector": ("inference.detector", "images.decode"),
    "draw": ("detections.draw",),
    "drawing": (f"{_EFFICIENTDET}.graph_drawing",),
    "errors": ("core.errors",),
    "explain": ("evaluation.explain",),
    "export.torch_network": ("inference.runtimes.torch_runtime",),
    "family": (f"{_EFFICIENTDET}.published", f"{_BACKBONES}.published", "architectures.classifier.published"),
    "graphs": (f"{_FEATURES}.graphs",),
    "learn.augment": ("training.augmentation.detection",),
    "learn.detection": ("training.task",),
    "learn.train": ("training.fit",),
    "losses": (f"{_EFFICIENTDET}.losses",),
    "metrics.coco": ("evaluation.coco_metrics",),
    "metrics.run": ("evaluation.detect_dataset",),
    "metrics.voc": ("evaluation.voc_metrics",),
    "models": ("weights.create",),
    "nms": ("detections.nms", "detections.settings"),
    "nn.detector": (f"{_EFFICIENTDET}.network", "architectures.classifier.network"),
    "postprocess": (f"{_EFFICIENTDET}.decode",),
    "preprocess": ("images.prepare",),
    "remote": ("images.remote",),
    "results": ("detections.detections",),
    "scaling": (f"{_BACKBONES}.scaling", f"{_EFFICIENTDET}.scaling"),
    "sources": ("images.sources",),
    "stream": ("inference.stream",),
    "targets": (f"{_EFFICIENTDET}.targets",),
    "tiles": ("inference.tiles",),
    "video": ("images.video", "images.source_kinds"),
}
"""Old module → where its contents are now, without ``phidet.``."""


_NAMES: dict[str, tuple[str, ...]] = {
    "ClassFigures": ("ClassMetrics",),
    "EXTENSIONS": ("VIDEO_EXTENSIONS",),
    "FIGURES": ("METRICS",),
    "Picture": ("ImageLike", "SourceImage"),
    "check_apart": ("check_sources_outside",),
    "pictures": ("read_sources",),
}
"""Names that changed on the way: old → what it may be called where its module is now."""


class MovedModules:
    """Imports the old paths; it is asked only where nothing else has the module.

    A finder and loader by its methods alone: their base classes import a dozen modules, which every start would pay.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for the old paths of phidet's modules, nothing for any other."""
        return None if not new_places(fullname) else ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """A plain module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Fills the old module with a look-up in the new ones."""
        places = new_places(module.__name__)
        if module.__name__.removeprefix("phidet.") not in (*_ROOMS, "nn"):  # packages are imported on the way
            warnings.warn(f"{module.__name__} has moved: use {' and '.join(places)}", DeprecationWarning, stacklevel=2)
        # All of them now, so that a missing package is reported by the import and not by the first look-up.
        found = [import_module(place) for place in places]

        def look_up(name: str) -> object:
            for one, known in product(found, (name, *_NAMES.get(name, ()))):
                if hasattr(one, known):
                    return getattr(one, known)
            raise AttributeError(f"module {module.__name__!r}, now {' and '.join(places)}, has no attribute {name!r}")

        module.__dict__["__getattr__"] = look_up


def new_places(module: str) -> list[str]:
    """Where the contents of a module of version 0.1 are now; empty for any other name."""
    package, _, name = module.partition(".")
    if package != "phidet" or not name:
        return []
    if name in _MODULES:
        return [f"phidet.{place}" for place in _MODULES[name]]
    room, _, rest = name.partition(".")
    if room not in _ROOMS:
        return ["phidet.architectures"] if name == "nn" else []
    return [f"phidet.{_ROOMS[room]}.{rest}" if rest else f"phidet.{_ROOMS[room]}"]


def install() -> None:
    """Makes the old paths importable, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
