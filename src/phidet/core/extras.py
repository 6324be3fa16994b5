"""phidet's version, and which optional package belongs to which extra."""

from __future__ import annotations

__version__ = "0.1.0"

TRAIN_PACKAGES = ("torch", "torchvision", "safetensors", "h5py", "onnx", "lightning_fabric")
DATA_PACKAGES = ("yaml", "google", "google_crc32c", "matplotlib", "faster_coco_eval", "tqdm")
SERVE_PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client", "pybase64")
GRPC_PACKAGES = ("grpc",)
TRACE_PACKAGES = ("opentelemetry",)
ALIGN_PACKAGES = ("scipy",)
RELATIONS_PACKAGES = ("networkx", "scipy", "torch_geometric")
TABLE_PACKAGES = {"pandas": "pandas", "pyarrow": "arrow", "polars": "polars"}
"""Each of these is an extra of its own: people have one of them, and are not asked for the others."""

# scipy is in two extras: the first that has a package is the one that a message names.
_EXTRAS = {
    "train": TRAIN_PACKAGES,
    "data": DATA_PACKAGES,
    "serve": SERVE_PACKAGES,
    "grpc": GRPC_PACKAGES,
    "otel": TRACE_PACKAGES,
    "align": ALIGN_PACKAGES,
    "relations": RELATIONS_PACKAGES,
    "batch": ("daft", "fsspec"),
    "completion": ("shtab",),
    **{extra: (package,) for package, extra in TABLE_PACKAGES.items()},
}


def extra_of(module: str) -> str | None:
    """The extra that brings ``module``, ``None`` where none does."""
    package = module.split(".", maxsplit=1)[0]
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
