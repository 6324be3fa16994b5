"""The models that come with phidet."""

from __future__ import annotations

from pathlib import Path

from phidet.core.errors import CheckpointError

BUNDLED = ("person",)
"""Their names."""
_FOLDER = Path(__file__).parents[1] / "inference" / "bundled"


def bundled_file(name: str, suffix: str) -> Path:
    """A bundled model's file for ONNX Runtime (".onnx"), or with weights to train on (".safetensors").

    Raises:
        CheckpointError: this installation lacks it.
    """
    path = _FOLDER / f"{name}{suffix}"
    if not path.is_file():
        raise CheckpointError(f"this installation lacks its {name} model, {path}: reinstall phidet")
    return path
