"""How a network is run: what every runtime is asked for."""

from __future__ import annotations

from typing import Literal, NamedTuple

Arithmetic = Literal["auto", "file", "bf16"]
"""In what numbers a network computes: in those of its file (fp32, or int8 where it is quantised), or in bfloat16.
"auto" is what ``phidet bench --best --keep`` chose for the file on this machine, else that of the file."""


Runtime = Literal["auto", "onnxruntime", "openvino", "litert", "torch"]

Device = Literal["cpu", "cuda", "tensorrt"]
"""Where a network runs: on the processor, or on an NVIDIA GPU, by CUDA's kernels or compiled by TensorRT in fp16."""


class RunOptions(NamedTuple):
    """How a network is run.

    Attributes:
        threads: number of threads for one call; ``None`` for one for each core that the process may use.
        at_once: number of calls that may come at a time, from as many threads.
        device: falls back to the processor, with a warning, where there is no such GPU, or no runtime for it.
        arithmetic: "bf16" where the runtime and the processor have it: half the bytes, and the range of fp32.
    """

    threads: int | None = None
    at_once: int = 1
    arithmetic: Arithmetic = "auto"
    device: Device = "cpu"
