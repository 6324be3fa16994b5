"""Silence around other projects' converters: standard output belongs to the command's own results."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO

from phidet.core.errors import ExportError, MissingExtraError


@contextmanager
def quiet() -> Iterator[None]:
    """Silences a converter, which logs its passes, and the warnings of its libraries about one another."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


@contextmanager
def exporting(name: str) -> Iterator[None]:
    """The surroundings of PyTorch's exporter of the model ``name`` to ONNX: silence, and errors in one line.

    Raises:
        MissingExtraError: the exporter lacks onnxscript.
        ExportError: it cannot translate the network.
    """
    if find_spec("onnxscript") is None:
        raise MissingExtraError(f"export of {name} to ONNX", "train")
    with quiet():
        try:
            yield
        except Exception as error:  # of any kind, with pages of advice to those who write exporters
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"PyTorch cannot export {name} to ONNX: {lines[0]}") from error
