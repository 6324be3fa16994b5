"""Relations between detections: corrected labels, scores and places, groups, and a verdict; without PyTorch.

>>> relations = Relations("runs/relations-attention-1")
>>> relations(detector("board.jpg", relations.settings()))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.architectures.header import exported_header
from phidet.core.errors import CheckpointError, ConfigError
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME
from phidet.detections.graphs.related import Related
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.inference.appearance import seen_by
from phidet.inference.runtimes.onnx_runtime import open_session, session_options
from phidet.inference.runtimes.open_model import find_model


class Relations:
    """A network on detections, exported with ``phidet export``. Calls from several threads at once are allowed.

    Args:
        model: the ``.onnx`` file, or the folder of the run that has it.
        threads: number of threads for one call; such networks are small, and one is usually the fastest.

    Attributes:
        config: of the network.
        class_names: of the detector that it was trained for.

    Raises:
        CheckpointError: there is no such file, or it cannot be used.
        ConfigError: it is a network on images.
    """

    def __init__(self, model: str | Path, *, threads: int = 1) -> None:
        path = find_model(model, ".onnx")
        # A run's folder without an export has the weights only, which need PyTorch.
        if path.suffix.lower() != ".onnx":
            raise CheckpointError(f"{path} is not an export: write one beside it with 'phidet export {model}'")
        self._path, self._session = path, open_session(path, session_options(threads))
        header = exported_header(self._session.get_modelmeta().custom_metadata_map, path)
        self.config = header.config
        self._relating = header.architecture.relating(header.config)
        self.class_names: tuple[str, ...] = self.config.class_names
        self._outputs = list(header.architecture.output_shapes(header.config))

    def settings(self, max_detections: int = 100) -> PostprocessSettings:
        """The settings to detect with: from the lowest score that the network looks at."""
        return PostprocessSettings(score=self._relating.score, max_detections=max_detections)

    def check_detector(self, class_names: tuple[str, ...]) -> None:
        """Raises ConfigError unless the network was trained for a detector of these classes."""
        # In the same order, too: classes are numbers to the network.
        if class_names != self.class_names:
            raise ConfigError(
                f"{self._path} relates detections of {', '.join(self.class_names[:5])}, the detector finds "
                f"{', '.join(class_names[:5])}: give the detector that it was trained with"
            )

    def __call__(self, detections: Detections) -> Detections:
        """The corrected detections of an image, best first; with the fields that :class:`Related` describes.

        Raises:
            InputError: detections that the network was not trained for, or of an image of unknown size.
        """
        return self.relate(detections).detections

    def relate(self, detections: Detections) -> Related:
        """Everything that the network says of the detections of an image.

        Raises:
            InputError: detections that the network was not trained for, or of an image of unknown size.
            CheckpointError: the network's answers are not finite.
        """
        graph = self._relating.graph(detections)
        values = self._session.run(self._outputs, dict(self._relating.inputs(graph)))
        return self._relating.decode(graph, {n: np.asarray(v) for n, v in zip(self._outputs, values, strict=True)})


class RelatedDetector:
    """Detects as another detector does, and corrects what that finds.

    Args:
        detector: finds the objects, with an appearance where the network sees one.
        relations: trained on its detections.

    Raises:
        ConfigError: the network was trained for other classes.
    """

    def __init__(self, detector: SupportsDetect, relations: Relations) -> None:
        relations.check_detector(detector.class_names)
        self._detector, self._relations = detector, relations

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the detector."""
        return self._detector.class_names

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        """The corrected detections in each image; ``settings`` say what of them is wanted."""
        settings = settings or PostprocessSettings()
        found = self._detector.detect(arrays, seen_with(self._relations, settings))
        return [self._relations(one).filter(settings.least_score, settings.classes) for one in found]


def seen_with(relations: Relations, settings: PostprocessSettings) -> PostprocessSettings:
    """The settings to detect with: relations see all that they were trained with, whatever is wanted of it."""
    least = min(settings.least_score, relations.settings().least_score)
    return msgspec.structs.replace(settings, score=least, classes=None)


def open_relations(path: str | Path, detector: SupportsDetect, model: str | Path) -> tuple[Relations, SupportsDetect]:
    """The network in ``path`` and the detector of ``model`` as it needs it, with an appearance where it sees one.

    Raises:
        CheckpointError: there is no such file, or it cannot be used.
        ConfigError: it was trained for other classes, or on frames of videos.
    """
    relations = Relations(path)
    relations.check_detector(detector.class_names)
    if FRAME in relations.config.fields:
        # Such a network needs the frame before, which still images do not have.
        raise ConfigError(f"{path} relates two frames of a video: phidet track --relations {path}")
    return relations, seen_by(relations.config.fields, detector, model)
