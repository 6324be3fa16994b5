"""The models that come with phidet, each an ONNX file with its card, ``NAME.md``, beside it."""

from __future__ import annotations

from pathlib import Path

from phidet.errors import CheckpointError

BUNDLED = ("person",)
_FOLDER = Path(__file__).parent


def bundled_model(name: str) -> Path:
    """The ONNX file of a bundled model.

    Raises:
        CheckpointError: this installation lacks it.
    """
    path = _FOLDER / f"{name}.onnx"
    if not path.is_file():
        raise CheckpointError(f"this installation of phidet lacks its {name} model, {path}: install phidet again")
    return path


def model_card(name: str) -> Path:
    """What the bundled model was made from, how good it is, its licence and its limits (Markdown)."""
    return _FOLDER / f"{name}.md"
