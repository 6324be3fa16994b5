"""What a training run leaves on disk.

best.safetensors, last.safetensors   models, ready to use
run.json                             recipe, data, seed and versions; what --resume reads
options.toml                         the command's options, for --config
images.csv                           which images it learns from and is validated on, by their content
metrics.csv, metrics.json            one line per epoch
tensorboard/                         the same for TensorBoard, where that is installed
report/                              metrics and plots of the best model
curves.png                           the same as a plot
state.pt                             everything that --resume needs; tensors and plain values only
"""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from phidet.architectures.model import Model
from phidet.core.errors import CheckpointError, ConfigError, PhidetError
from phidet.core.structs import in_words
from phidet.data.hold_out import RUN
from phidet.data.run_images import IMAGES, RunImages
from phidet.training.about import About
from phidet.weights.native import save_model, write_atomically

RecordT = TypeVar("RecordT", bound=msgspec.Struct)
STATE, METRICS = "state.pt", "metrics.csv"


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; raises CheckpointError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {path}: {error.strerror or error}") from error


def read_record(path: Path, kind: type[RecordT], missing: str) -> RecordT:
    """What several runs have in common, from the file that they were begun with.

    Raises:
        CheckpointError: there is ``missing``, or the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise CheckpointError(f"there is {missing} in {path.parent}: {path.name}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


class RunFolder:
    """A folder of a run; every file in it is written as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, about: About, images: RunImages | None = None) -> None:
        """Makes the folder and writes ``run.json`` and ``images.csv``.

        Raises:
            ConfigError: there is a run in it already.
            CheckpointError: it cannot be made or written.
        """
        if (self.path / RUN).exists():
            raise ConfigError(f"{self.path} holds a run already: continue it with --resume, or choose another folder")
        make_folder(self.path)
        if images is not None:  # before run.json, which makes the folder a run
            write_atomically(self.path / IMAGES, images.to_csv())
        self.save_about(about)

    def save_about(self, about: About) -> None:
        """Writes ``run.json``."""
        write_atomically(self.path / RUN, msgspec.json.format(msgspec.json.encode(about)))

    def read_about(self) -> About:
        """What ``run.json`` says.

        Raises:
            CheckpointError: there is no run in the folder, or its description is damaged.
        """
        path = self.path / RUN
        try:
            return msgspec.json.decode(path.read_bytes(), type=About)
        except OSError as error:
            raise CheckpointError(
                f"there is no run to resume in {self.path}: {RUN} {'is missing' if not path.exists() else error}"
            ) from error
        except msgspec.ValidationError as error:
            raise CheckpointError(f"{path} is damaged, or not of a run: {in_words(error, About)}") from error
        except (msgspec.DecodeError, PhidetError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    @property
    def has_begun(self) -> bool:
        """Whether an epoch was done."""
        return (self.path / STATE).exists() or (self.path / METRICS).exists()

    @property
    def best(self) -> Path:
        """The file of the best model."""
        return self.path / "best.safetensors"

    @property
    def has_best(self) -> bool:
        """Whether there is a best model."""
        return self.best.is_file()

    def save_models(self, model: Model, best: bool) -> None:
        """Writes ``last.safetensors``, and the same as ``best.safetensors`` if it is."""
        for name in ("last", "best") if best else ("last",):
            save_model(model, self.path / f"{name}.safetensors")

    def save_metrics(self, rows: list[dict[str, float]]) -> None:
        """Writes all rows so far; a row may lack what was not measured."""
        text = io.StringIO()
        # Columns in order of first appearance: epochs without an evaluation lack its metrics.
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
        write_atomically(self.path / METRICS, text.getvalue().encode())
        write_atomically(self.path / "metrics.json", msgspec.json.format(msgspec.json.encode(rows)))
        self._tell_tensorboard(rows[-1])

    def _tell_tensorboard(self, row: dict[str, float]) -> None:
        """The last row for TensorBoard, where that is installed; a resumed run starts another file, as it expects."""
        if find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - only where the package is

        with SummaryWriter(str(self.path / "tensorboard")) as writer:
            for key, value in row.items():
                writer.add_scalar(key, value, int(row["epoch"]))

    def save_state(self, state: dict[str, Any]) -> None:
        """Writes what a resumed run starts from."""
        # Through memory, so that the atomic write covers torch.save as well, whose zip writer seeks.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path / STATE, buffer.getvalue())

    def load_state(self) -> dict[str, Any]:
        """What :meth:`save_state` wrote last.

        Raises:
            CheckpointError: there is nothing to resume from, or it is damaged.
        """
        path = self.path / STATE
        if not path.is_file():
            raise CheckpointError(f"there is no run to resume in {self.path}: {STATE} is missing")
        try:
            # weights_only: a state file from elsewhere must not run code while it is unpickled.
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise CheckpointError(f"{path} is damaged: {error}. Start over in another folder") from error
        return state
