"""Usage reporting of other packages, switched off for everything that phidet imports."""

from __future__ import annotations

import os
import sys


def disable_usage_reports() -> None:
    """Disables usage reporting (telemetry) in the packages that phidet imports.

    Runs when ``phidet`` is imported, which comes before any import of its own, so that no module has to remember it.
    Processes started from here inherit the environment variable. A package that was imported before phidet has
    initialised its reporting by then: ONNX Runtime can still be told to stop, OpenVINO cannot.
    """
    # ONNX Runtime 1.32 uploads events to mobile.events.data.microsoft.com and keeps a device identifier below ~/.cache.
    # The variable is read when its library is loaded (onnxruntime/Privacy.md).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None:
        onnxruntime.disable_telemetry_events()
    # Daft reports its import and every start of its engine to Scarf, Ray its use to its makers.
    os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # OpenVINO reports its import and every conversion to Google Analytics unless CI is set. Without this package, which
    # None keeps from being imported, it takes a stub of its own (openvino/tools/ovc/telemetry_stub.py).
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
