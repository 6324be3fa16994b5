"""Metrics of a run in Weights & Biases, MLflow and Comet, by Lightning's loggers; none unless it is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from phidet.core.errors import MissingExtraError, UnknownNameError
from phidet.core.optional import optional_package

log = logging.getLogger("phidet")
_PROJECT = "phidet"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml"}
KINDS = tuple(_PACKAGES)
"""Names of loggers; each is also the name of the extra that brings it."""


def check_loggers(names: Sequence[str]) -> None:
    """Raises unless all loggers are known and installed.

    Raises:
        UnknownNameError: there is no such logger.
        MissingExtraError: its packages are not installed.
    """
    for name in names:
        if name not in KINDS:
            raise UnknownNameError("logger", name, KINDS)
        if find_spec(_PACKAGES[name]) is None or find_spec("pytorch_lightning") is None:
            raise MissingExtraError(f"--log {name}", name)


class Loggers:
    """Tells loggers of a run. Where one fails, as without a network, the run goes on without it, and says so.

    Args:
        names: of :data:`KINDS`.
        folder: the run's, whose name the loggers show and where they keep files of their own.
        about: plain settings of the run, by name.
    """

    def __init__(self, names: Sequence[str], folder: Path, about: Mapping[str, Any]) -> None:
        self._loggers: dict[str, Any] = {}
        for name in names:
            try:
                logger = _open(name, folder)
                logger.log_hyperparams(dict(about))
            except Exception as error:  # what their clients raise is not ours to know
                self._give_up(name, error)
            else:
                self._loggers[name] = logger

    def tell(self, row: Mapping[str, float], epoch: int) -> None:
        """Passes on the metrics of an epoch."""
        for name, logger in list(self._loggers.items()):
            try:
                logger.log_metrics(dict(row), step=epoch)
            except Exception as error:
                self._give_up(name, error)

    def close(self, status: str = "success") -> None:
        """Ends the loggers' runs: "success", or "failed"."""
        for name, logger in list(self._loggers.items()):
            try:
                logger.finalize(status)
            except Exception as error:
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._loggers.pop(name, None)
        log.warning("going on without %s: %s", name, " ".join(str(error).split())[:300] or type(error).__name__)


def _open(name: str, folder: Path) -> Any:
    """Lightning's logger; accounts, servers and offline modes are what each client's own settings say."""
    loggers = optional_package("pytorch_lightning.loggers", f"--log {name}", name)
    if name == "wandb":
        # Nothing is sent but what was asked for.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        return loggers.WandbLogger(project=_PROJECT, name=folder.name, save_dir=str(folder))
    if name == "mlflow":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A file of its own: MLflow 3 refuses folders of text files, its default before.
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').absolute().as_posix()}"
        return loggers.MLFlowLogger(experiment_name=_PROJECT, run_name=folder.name, tracking_uri=where)
    return loggers.CometLogger(project=_PROJECT, name=folder.name)
