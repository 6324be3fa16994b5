"""Puts a model into a model's folder as its next version, so that a server never finds it incomplete."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from phidet.core.errors import CheckpointError, PhidetError
from phidet.core.extras import __version__
from phidet.inference.detector import Detector
from phidet.inference.runtimes.open_model import EXPORTS, find_model
from phidet.serve.models.folders import MAX_VERSION, version_folders
from phidet.serve.models.versions import try_out

CARD = "card.json"
_UNFINISHED = ".publishing-"  # no number, so no version
_ABANDONED_SECONDS = 3600
_CARDS = ("{stem}.md", "{stem}.card.md", "card.md", "model-card.md", "README.md")


def publish(model: str | Path, base_path: Path) -> Path:
    """Copies ``model`` and its card into the next version folder of ``base_path``, which is made where it is missing.

    The model is loaded and tried first. The folder appears by one rename, complete and on disk. Several publishers
    may work at a time.

    Args:
        model: an export (.onnx, .xml, .tflite), a run's folder that has one, or a model that comes with phidet.
        base_path: the model's folder.

    Returns:
        The version folder.

    Raises:
        CheckpointError: the model cannot be used or is not exported; the folder cannot be written. Nothing has changed
            then.
    """
    source = find_model(model)
    if source.suffix not in EXPORTS:
        raise CheckpointError(f"{source} is not an exported model: 'phidet export {model}' first, then publish that")
    files = [source, *([source.with_suffix(".bin")] if source.suffix == ".xml" else [])]
    Detector(source).close()  # errors name the source file, not its copy
    # A folder that was made for nothing is removed again.
    made = not base_path.exists()
    try:
        base_path.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base_path)
        # Inside base_path, hence on the same file system: the final rename is atomic, and leaves nothing to clean up.
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=base_path, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            for file in files:
                _copy(file, folder / f"model{file.suffix}")
            _write(folder / CARD, _card(source, folder / f"model{source.suffix}"))
            for text in _texts(source):
                _copy(text, folder / "card.md")
            # Names are made durable before the rename, or a power failure could publish an empty version.
            _sync_folder(folder)
            # Temporary folders are private; the server may run as another user.
            folder.chmod(0o755)
            version = _rename_to_next(folder, base_path)
        _sync_folder(base_path)
    except OSError as error:
        reason = "it is a file, expected a folder" if base_path.is_file() else error.strerror or error
        raise CheckpointError(f"cannot publish to {base_path}: {reason}. Nothing was changed") from error
    finally:
        if made:
            with contextlib.suppress(OSError):  # a version is in it
                base_path.rmdir()
    return version


def _rename_to_next(folder: Path, base_path: Path) -> Path:
    while True:
        # version_folders knows folders only; a file with a number for a name blocks the rename as well.
        taken = [int(entry.name) for entry in base_path.iterdir() if entry.name.isascii() and entry.name.isdigit()]
        number = max([*taken, *version_folders(base_path)], default=0) + 1
        if number > MAX_VERSION:
            raise CheckpointError(f"{base_path} has version {number - 1}, behind which there is none")
        target = base_path / str(number)
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue  # another publisher was faster
        return target


def _remove_abandoned(base_path: Path) -> None:
    """Removes what killed publishers left behind."""
    for entry in base_path.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(entry)


def _card(source: Path, copy: Path) -> bytes:
    """Describes this version and its origin; tries the copy, which may lack files that lay beside the source."""
    try:
        detector = Detector(copy)
        try_out(detector.detect)
        detector.close()
    except PhidetError as error:
        raise CheckpointError(f"{source} does not work once it is copied, so nothing was published: {error}") from error
    card = {
        "name": detector.config.name,
        "file": copy.name,
        "bytes": copy.stat().st_size,
        "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "published_from": source.name,
        "phidet_version": __version__,
        "class_names": detector.class_names,
        "image_size_hw": detector.config.image_size_hw,
        "config": detector.config,
    }
    return msgspec.json.format(msgspec.json.encode(card), indent=2)


def _texts(source: Path) -> list[Path]:
    """The card in words that lies beside the model, if one does."""
    named = [source.with_name(pattern.format(stem=source.stem)) for pattern in _CARDS]
    return [path for path in named if path.is_file()][:1]


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _write(target: Path, content: bytes) -> None:
    with target.open("wb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
