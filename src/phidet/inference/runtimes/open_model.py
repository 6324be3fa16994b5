"""Finds the file for a model's name, and the runtime that runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast, get_args

from phidet.architectures.registry import published_names, publisher_of, publishes
from phidet.core.bundled import BUNDLED, bundled_file
from phidet.core.errors import CheckpointError, ConfigError, MissingExtraError, PhidetError, UnknownNameError
from phidet.core.files import cache_dir
from phidet.inference.runtimes.kept import kept_choice, kept_path
from phidet.inference.runtimes.network import Network
from phidet.inference.runtimes.options import RunOptions, Runtime

_RUNTIMES: dict[Runtime, tuple[str, str, tuple[str, ...]]] = {
    "onnxruntime": ("phidet.inference.runtimes.onnx_runtime", "open_onnx", (".onnx",)),
    "openvino": ("phidet.inference.runtimes.openvino_runtime", "open_openvino", (".onnx", ".xml")),
    "litert": ("phidet.inference.runtimes.litert_runtime", "open_litert", (".tflite",)),
    "torch": ("phidet.inference.runtimes.torch_runtime", "open_torch", (".safetensors",)),
}
"""Runtime → (module, function that opens a file, suffixes); "auto" takes the first that runs a file."""
EXPORTS = (".onnx", ".xml", ".tflite")
"""Suffixes of the files that networks without PyTorch are in."""
_EXTRA = {"openvino": "openvino", "litert": "litert", "torch": "train"}
_NEWER = 60  # seconds; a copied folder's files differ by less
_PACKAGE = {"openvino": "openvino", "litert": "ai_edge_litert", "torch": "torch"}
log = logging.getLogger("phidet")


def open_network(model: str | Path, runtime: Runtime = "auto", options: RunOptions = RunOptions()) -> Network:  # noqa: B008 - immutable
    """Loads the network that ``model`` refers to.

    Args:
        model: a model that comes with phidet ("person"), a file (.onnx, .xml, .tflite, .safetensors), the folder of a
            training run, or the name of a published model that was exported before.
        runtime: its name; "auto" selects it by the file's suffix.
        options: how to run it.

    Raises:
        UnknownNameError: no such runtime.
        ConfigError: what is asked for is not what the runtime or this machine has.
        CheckpointError: there is no such model, or its file cannot be used.
        MissingExtraError: the runtime is not installed.
    """
    if runtime not in get_args(Runtime):
        raise UnknownNameError("runtime", runtime, get_args(Runtime))
    path = find_model(model, ".safetensors" if runtime == "torch" else ".onnx")
    # What was kept is a choice of everything: whoever asks for a runtime or a precision has made another one.
    if runtime == "auto" and options.arithmetic == "auto":
        runtime, options = _as_kept(path, options)
    name: Runtime = runtime
    if options.device != "cpu":
        check_device(options, runtime)
    if options.arithmetic == "bf16":
        name = _with_bf16(runtime, path)
    elif runtime == "auto":
        name = next((name for name, (_, _, suffixes) in _RUNTIMES.items() if path.suffix.lower() in suffixes), "auto")
    if name == "auto" or path.suffix.lower() not in _RUNTIMES[name][2]:
        if path.suffix.lower() in (".pth", ".pt", ".ckpt", ".h5"):
            raise CheckpointError(
                f"{path} is not a model file of phidet: 'phidet convert {path} NAME.safetensors' makes one of it"
            )
        if path.suffix.lower() == ".json":
            raise CheckpointError(
                f"{path} is no model: descriptions of other projects' detectors are for 'phidet label', 'phidet eval' "
                "and --teacher, and in Python for phidet.inference.described.DescribedDetector"
            )
        runs = "; ".join(f"{name} runs {' and '.join(suffixes)}" for name, (_, _, suffixes) in _RUNTIMES.items())
        raise CheckpointError(f"{path} cannot be run{'' if name == 'auto' else f' by {name}'}: {runs}")
    # Looked for before it is imported, so that a package that is there and broken says itself what is wrong.
    if name in _EXTRA and find_spec(_PACKAGE[name]) is None:
        raise MissingExtraError(f"running {path.name} on {name}", _EXTRA[name])
    module, kind, _ = _RUNTIMES[name]
    # By name, so that nothing here depends on PyTorch.
    make = cast("Callable[[Path, RunOptions], Network]", getattr(import_module(module), kind))
    return make(path, options)


def _as_kept(path: Path, options: RunOptions) -> tuple[Runtime, RunOptions]:
    """What was found to be the fastest for the file on this machine, and kept."""
    kept = kept_choice(path)
    if kept is None:
        return "auto", options
    log.info("%s runs on %s as %s says", path, kept.runtime, kept_path(path))
    options = options._replace(arithmetic=kept.precision, threads=options.threads or kept.threads)
    return kept.runtime, options


def check_device(options: RunOptions, runtime: Runtime) -> None:
    """Raises ConfigError where the runtime, or the arithmetic, is one of processors only."""
    if runtime in ("openvino", "litert") or options.arithmetic == "bf16":
        what = "bf16" if options.arithmetic == "bf16" else runtime
        raise ConfigError(f"{what} is for processors: leave it out for {options.device}, or leave out {options.device}")


def _with_bf16(runtime: Runtime, path: Path) -> Runtime:
    """The runtime that computes in bf16.

    Raises:
        ConfigError: another one is asked for, or the file is for another one.
    """
    if runtime not in ("auto", "openvino") or path.suffix.lower() not in _RUNTIMES["openvino"][2]:
        raise ConfigError(
            f"only OpenVINO computes in bf16, with a file that ends in .onnx or .xml, got {path.name} on {runtime}"
        )
    return "openvino"


def runtimes_for(path: Path) -> list[Runtime]:
    """Installed runtimes that can run the file, the usual one first."""
    return [
        name
        for name, (_, _, suffixes) in _RUNTIMES.items()
        if path.suffix.lower() in suffixes and (name not in _PACKAGE or find_spec(_PACKAGE[name]) is not None)
    ]


def find_model(model: str | Path, preferred: str = ".onnx") -> Path:
    """The file that ``model`` refers to; ``preferred`` is the suffix chosen if a run's folder has several.

    Raises:
        CheckpointError: there is none; the message says how to get it.
    """
    path = Path(model)
    if path.suffix and path.is_file():  # no published name: other packages need not be searched for one
        return path
    found = _in_run(path, preferred) if path.is_dir() else None
    if found is not None:
        return found
    published = model not in BUNDLED and publishes(str(model), "boxes")
    named = model in BUNDLED or published
    if path.is_dir() and not named:  # "person" stays the person model beside a folder of that name, see publish
        raise CheckpointError(f"{path} holds no model: expected best.onnx or best.safetensors in a run's folder")
    if path.is_file() and not named:
        return path
    if model in BUNDLED:
        return bundled_file(str(model), preferred)
    if published:
        exported = cache_dir() / f"{model}.onnx"
        if exported.is_file():
            return exported
        if not _has_weights(str(model)):
            raise CheckpointError(f"{model} has no published weights: train it, 'phidet train DATA --model {model}'")
        raise CheckpointError(
            f"{model} is published but not on this machine: 'phidet export {model}' downloads and converts it once, "
            f"into {exported} (pip install 'phidet[published]')"
        )
    example = published_names("boxes")[0]
    if publisher_of(str(model)) is not None:
        raise CheckpointError(f"{model} is not a detector: name one, such as {BUNDLED[0]} or {example}")
    raise CheckpointError(
        f"there is no model {str(model)!r}: expected {', '.join(BUNDLED)}, a file (.onnx, .xml, .tflite, "
        f".safetensors), the folder of a training run, or a published name such as {example}"
    )


def _has_weights(name: str) -> bool:
    """Whether somebody publishes weights of the published model of that name."""
    architecture = publisher_of(name)
    try:
        return architecture is not None and (
            architecture.pretrained_file(architecture.published_config(name), "coco", name) is not None
        )
    except PhidetError:
        return False


def model_file(model: str | Path) -> Path | None:
    """The file of a trained model: of a bundled one, the path itself, or the best one of a run's folder.

    It may not exist.
    """
    if model in BUNDLED:
        return bundled_file(str(model), ".safetensors")
    path = Path(model)
    if path.is_dir():
        path = path / "best.safetensors"
    return path if path.suffix == ".safetensors" or path.is_file() else None


def _in_run(folder: Path, preferred: str) -> Path | None:
    names = [f"best{preferred}", "best.onnx", "best.safetensors", "last.safetensors"]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    trained = folder / "best.safetensors"
    if found is not None and found.suffix == ".onnx" and trained.is_file():
        # An export that is older than the weights beside it would silently run yesterday's model.
        seconds = trained.stat().st_mtime - found.stat().st_mtime
        if seconds > _NEWER:
            log.warning("%s is older than %s: 'phidet export %s' writes it again", found, trained.name, folder)
    return found
