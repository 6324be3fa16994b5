"""What ``phidet bench --best --keep`` found for a model on a machine: a small file beside the model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.files import write_atomic
from phidet.core.machine import processor_name, usable_cores
from phidet.core.structs import from_json
from phidet.inference.runtimes.options import Arithmetic, Runtime


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model runs fastest.

    Attributes:
        runtime, precision: see :class:`phidet.inference.detector.Detector`.
        threads: of a call; ``None`` for one for each core.
        processor, cores: of the machine that it was measured on; on others it means nothing.
    """

    runtime: Runtime
    precision: Arithmetic
    threads: int | None
    processor: str
    cores: int


def kept_path(model: Path) -> Path:
    """Where the choice for the file ``model`` is."""
    return model.with_name(f"{model.name}.run.json")


def kept_choice(model: Path) -> Kept | None:
    """The choice for the file ``model``; ``None`` without one, or with one of another machine.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = kept_path(model)
    try:
        kept = from_json(path.read_bytes(), Kept)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ConfigError as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. Delete it, or write it again: phidet bench --best --keep"
        ) from error
    # A container may have fewer cores than the machine had when it was measured: then it is another one.
    return kept if (kept.processor, kept.cores) == (processor_name(), usable_cores()) else None


def keep(model: Path, runtime: Runtime, precision: Arithmetic, threads: int | None) -> Path:
    """Writes the choice for the file ``model`` on this machine.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    cores = usable_cores()
    kept = Kept(runtime=runtime, precision=precision, threads=threads, processor=processor_name(), cores=cores)
    write_atomic(kept_path(model), msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
    return kept_path(model)
