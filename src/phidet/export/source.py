"""What is exported: a trained model, a run's folder, or a published model."""

from __future__ import annotations

from pathlib import Path

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of, publishes
from phidet.core.bundled import BUNDLED
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.files import cache_dir
from phidet.inference.runtimes.open_model import EXPORTS, find_model
from phidet.weights.create import create_model
from phidet.weights.native import load_model


def load_detector(source: str | Path) -> Model:
    """Loads the PyTorch model named by ``source``, in evaluation mode; a published one is downloaded if needed.

    Raises:
        CheckpointError: there is none, or it is a classifier.
        ConfigError: it is an export already.
        DownloadError: a published model could not be fetched.
    """
    if _is_published(source):
        return create_model(str(source), pretrained="coco").eval()
    path = find_model(source, ".safetensors")
    if path.suffix in EXPORTS:
        raise ConfigError(f"{path} is an export already: give the .safetensors file that it was made of")
    model = load_model(path)
    if not {"boxes", "relations"} & architecture_of(model.config).says:
        raise CheckpointError(f"{path} is no detector: only detectors, and networks on detections, can be exported")
    return model


def target_of(source: str | Path, ending: str) -> Path:
    """The default target of an export: beside the model, or for a published or bundled one in the cache.

    Args:
        source: what is exported.
        ending: what follows the model's name: ".onnx", "-int8.onnx".

    Raises:
        CheckpointError: there is no such model.
    """
    if source in BUNDLED or _is_published(source):
        return cache_dir() / f"{source}{ending}"
    path = find_model(source, ".safetensors")
    return path.with_name(f"{path.stem}{ending}")


def _is_published(source: str | Path) -> bool:
    # Files come first: a model of one's own must not need the packages of others that might know its name.
    return not Path(source).exists() and publishes(str(source), "boxes")
