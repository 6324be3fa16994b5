"""The detector: from images to detections, without PyTorch.

>>> detector = Detector("person")
>>> detector("photo.jpg").boxes_xyxy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import numpy.typing as npt

from phidet.architectures.prepared import Placement, Prepared, by_shape
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, InputError, UnknownNameError
from phidet.detections.boxes import FloatArray
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.detections.thresholds import Thresholds, above_thresholds, stored_thresholds
from phidet.images.decode import Decoded, ImageLike, Reduced, as_decoded, check_pixels
from phidet.inference.runtimes.network import Network, Outputs
from phidet.inference.runtimes.open_model import open_network
from phidet.inference.runtimes.options import Arithmetic, Device, RunOptions, Runtime

MAX_THREADS = 1024


class Detector:
    """A loaded model. Calls from several threads at once are allowed and share its weights. ``with`` closes it.

    Args:
        model: "person", which comes with phidet; a file (.onnx, .xml, .tflite, .safetensors); the folder of a training
            run; or the name of a published model, exported before with ``phidet export``. Or a network that is loaded
            already, or a model of PyTorch, as :func:`phidet.load_model` returns it.
        runtime: "auto" selects it by the file: ONNX Runtime, OpenVINO, LiteRT, or PyTorch.
        threads: number of threads for one call; by default, one for each core that the process may use.
        precision: "file" for that of the file, or "bf16" to compute in bfloat16, which takes two thirds of the time, in
            OpenVINO on processors that have it. "auto": what ``phidet bench --best --keep`` chose, else "file".
        device: "cpu"; or "cuda" or "tensorrt" (in fp16), in ONNX Runtime or PyTorch.
        at_once: number of calls that will come at a time, from as many threads, each with ``threads`` of its own.
        exact: decode all pixels of every file, also where the network sees a fraction of them.

    Attributes:
        config: of the model.
        class_names: of the model.
        runtime_name: name of the runtime.
        network: the loaded network.
        architecture: prepares its images and decodes its outputs.
        thresholds: the best score of each class, where the model stores them; ``PostprocessSettings(score="auto")``
            uses them.

    Raises:
        CheckpointError: there is no such model, or its file cannot be used.
        MissingExtraError: its runtime is not installed.
        ConfigError: not a model, an invalid number of threads, or a precision that this machine does not have.
    """

    def __init__(
        self,
        model: str | Path | Network = "person",
        *,
        runtime: Runtime = "auto",
        threads: int | None = None,
        precision: Arithmetic = "auto",
        device: Device = "cpu",
        at_once: int = 1,
        exact: bool = False,
    ) -> None:
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
            raise ConfigError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {threads!r}")
        if not (isinstance(at_once, int) and at_once >= 1):
            raise ConfigError(f"at_once must be a whole number ≥ 1, got {at_once!r}")
        if precision not in get_args(Arithmetic):
            raise UnknownNameError("precision", precision, get_args(Arithmetic))
        if device not in get_args(Device):
            raise UnknownNameError("device", device, get_args(Device))
        self._again: partial[Detector] | None = None  # opens the same file once more
        if isinstance(model, str | Path):
            self.network = open_network(model, runtime, RunOptions(threads, at_once, precision, device))
            self._again = partial(
                type(self), model, runtime=runtime, threads=threads, precision=precision, device=device,
                at_once=at_once, exact=exact,
            )  # fmt: skip
        elif hasattr(model, "config") and hasattr(model, "parameters"):
            # A model of PyTorch, which is not imported here.
            self.network = import_module("phidet.inference.runtimes.torch_runtime").TorchNetwork(model)
        elif hasattr(model, "config") and hasattr(model, "name") and callable(model):
            self.network = model
        else:
            raise ConfigError(f"expected a model's name, file or folder, or a network, got a {type(model).__name__}")
        self.exact = exact
        self.config = self.network.config
        self.architecture = architecture_of(self.config)
        self.class_names: tuple[str, ...] = self.config.class_names
        self.runtime_name = self.network.name
        self.thresholds: Thresholds | None = getattr(self.network, "thresholds", None)
        self._named = str(model) if isinstance(model, str | Path) else self.config.name
        self._decode = self.architecture.decoder(self.config)

    def __reduce__(self) -> tuple[Any, ...]:
        # A network in memory cannot go to another process; its file can be opened there again.
        if self._again is None:
            raise ConfigError("a detector of a loaded network cannot go to another process: open its file there")
        return self._again, ()

    @overload
    def __call__(self, images: ImageLike, settings: PostprocessSettings | None = None) -> Detections: ...

    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], settings: PostprocessSettings | None = None
    ) -> list[Detections]: ...

    def __call__(
        self, images: ImageLike | list[Any] | tuple[Any, ...], settings: PostprocessSettings | None = None
    ) -> Detections | list[Detections]:
        """Detects the objects in one image, or in each of a list.

        Args:
            images: paths, PIL images, or arrays (H, W, 3) uint8 RGB; one or a list.
            settings: thresholds and suppression; those of :class:`PostprocessSettings` unless given.

        Raises:
            InputError: an image that cannot be read, or an array of another shape or dtype.
            UnknownNameError: ``settings.classes`` names a class that the model does not know.
            ConfigError: the score is "auto", and the model stores no thresholds.
        """
        if isinstance(images, list | tuple):
            found = self.detect([as_decoded(image, self.needed_hw) for image in images], settings)
            return [one.of_image(image) for one, image in zip(found, images, strict=True)]
        return self.detect([as_decoded(images, self.needed_hw)], settings)[0].of_image(images)

    def needed_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """The least height and width that an image of ``image_hw`` pixels may be decoded at for this detector."""
        return image_hw if self.exact else self.architecture.needed_hw(self.config, image_hw)

    def detect(self, arrays: Sequence[Decoded], settings: PostprocessSettings | None = None) -> list[Detections]:
        """Detects the objects in each of a batch of decoded images, (H, W, 3) uint8 RGB or smaller ones of them.

        Boxes are in pixels of the whole image in either case.

        Raises:
            InputError: an array of another kind.
            UnknownNameError: ``settings.classes`` names a class that the model does not know.
        """
        if not arrays:
            return []
        # A common slip is two images instead of a list of them: the second one then stands where settings are.
        settings = PostprocessSettings() if settings is None else settings
        if not isinstance(settings, PostprocessSettings):
            raise InputError(
                f"expected PostprocessSettings, got a {type(settings).__name__}: several images go in a list"
            )
        # Images of one shape go through the network together; each answer goes back to its image's place.
        prepared = [self._prepare(array) for array in arrays]
        found: dict[int, Detections] = {}
        for indices in by_shape([one.image.shape for one in prepared]):
            part = [prepared[i] for i in indices]
            outputs = self.network(*self.architecture.network_inputs(part))
            for row, (i, one) in enumerate(zip(indices, part, strict=True)):
                found[i] = self.decode({name: of[row] for name, of in outputs.items()}, one.placement, settings)
        return [found[i] for i in range(len(arrays))]

    def decode(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        """From the raw outputs for one image, by name and without the batch dimension, to detections."""
        # Thresholds of classes are applied afterwards, to what the lowest of them lets through.
        if not isinstance(settings.score, str):
            return self._decode(outputs, placement, settings)
        return above_thresholds(
            partial(self._decode, outputs, placement), settings, stored_thresholds(self, self._named)
        )

    def check(self, settings: PostprocessSettings) -> None:
        """Raises ConfigError if the score is "auto" and the model stores no thresholds."""
        if isinstance(settings.score, str):
            stored_thresholds(self, self._named)

    def _prepare(self, image: Decoded) -> Prepared:
        # Boxes are found in the smaller image, and the placement takes them to the whole one.
        if not isinstance(image, Reduced):
            return self.architecture.prepare(self.config, check_pixels(image))
        prepared = self.architecture.prepare(self.config, image.pixels)
        return prepared._replace(placement=prepared.placement.enlarged(image.factor, image.size_hw))

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the network's memory; the detector cannot be used afterwards."""
        self.network = _Closed(self.config, self.runtime_name)


class _Closed:
    """Replaces the network of a closed detector."""

    def __init__(self, config: Any, name: str) -> None:
        self.config, self.name = config, name

    def __call__(self, images: npt.NDArray[np.float32], valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        raise InputError("this detector is closed: make a new one")
