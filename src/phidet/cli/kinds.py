"""What a model file's network predicts, read from its header."""

from __future__ import annotations


def says(model: str) -> frozenset[str]:
    """What the network of a model file, or of a run's best one, predicts; nothing for files of other runtimes."""
    from phidet.core.bundled import BUNDLED
    from phidet.inference.runtimes.open_model import model_file

    # Only a header is read, and only of PyTorch's files: an exported detector is measured without importing PyTorch.
    path = None if model in BUNDLED else model_file(model)  # those are run from their exports
    if path is None or path.suffix != ".safetensors" or not path.is_file():
        return frozenset()
    from phidet.weights.native import read_header

    header = read_header(path)
    return frozenset() if header is None else header.architecture.says
