"""What a GPU's runtime is asked for, and what is said where there is none; no test needs a GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from conftest import needs_pytorch
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.inference.detector import Detector
from phidet.inference.runtimes import onnx_runtime
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork, providers_of
from phidet.inference.runtimes.open_model import find_model

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def all_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])


def names(providers: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


@pytest.mark.usefixtures("all_providers")
def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path))
    assert providers_of("cpu") == [CPU]
    assert names(providers_of("cuda")) == [CUDA, CPU]
    tensorrt = providers_of("tensorrt")
    assert names(tensorrt) == [TENSORRT, CUDA, CPU]
    settings = dict(tensorrt[0][1])  # type: ignore[arg-type]
    assert settings["trt_fp16_enable"] == "1"
    assert settings["trt_engine_cache_path"] == str(tmp_path / "tensorrt")


def test_only_what_the_runtime_has_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    assert names(providers_of("tensorrt")) == [CUDA, CPU]


class Session:
    """A session that has what it was asked for, or not."""

    reached: tuple[str, ...] = ()

    def __init__(self, path: Path, options: object, providers: list[Any]) -> None:
        self.real = onnx_runtime.ort.InferenceSession.__wrapped__(path, options, providers=[CPU])  # type: ignore[attr-defined]
        self.asked = names(providers)

    def get_providers(self) -> list[str]:
        return [name for name in self.asked if name in self.reached] + [CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, all_providers: None) -> type[Session]:
    real = ort.InferenceSession

    def make(path: Path, options: object, providers: list[Any]) -> Session:
        return Session(path, options, providers)

    make.__wrapped__ = real  # type: ignore[attr-defined]
    monkeypatch.setattr(onnx_runtime.ort, "InferenceSession", make)
    monkeypatch.setattr(Session, "reached", ())
    return Session


@pytest.mark.parametrize(
    ("device", "reached", "said"),
    [
        ("cuda", (CUDA,), ""),
        ("tensorrt", (TENSORRT, CUDA), ""),
        ("cuda", (), f"does not reach cuda here: person.onnx runs on {CPU}"),
        ("tensorrt", (CUDA,), f"does not reach tensorrt here: person.onnx runs on {CUDA}"),
    ],
)
def test_it_falls_back_with_one_line(
    device: Any, reached: tuple[str, ...], said: str, sessions: type[Session], caplog: pytest.LogCaptureFixture
) -> None:
    sessions.reached = reached
    with caplog.at_level(logging.INFO, "phidet"):
        network = OnnxNetwork(find_model("person"), 1, device)
    assert len(caplog.messages) == (1 if said else 0)
    assert all(said in message for message in caplog.messages)
    assert network.config.class_names == ("person",)


def test_what_is_for_processors_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, what in ((["--runtime", "openvino"], "openvino"), (["--precision", "bf16"], "bf16")):
        assert main(["detect", "p.jpg", "--device", "cuda", *words]) == 2
        assert f"{what} is for processors" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        Detector("person", device="gpu")  # type: ignore[arg-type]


@needs_pytorch
def test_a_graph_is_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the calls of PyTorch's CUDA on the CPU: what is recorded is what ran between begin and end."""
    import torch  # noqa: PLC0415

    from phidet.inference.runtimes import torch_runtime  # noqa: PLC0415

    calls: list[str] = []

    class Graph:
        def replay(self) -> None:
            calls.append("replay")
            output.copy_(network.inputs[-1] * 2)

    @contextmanager
    def recording(graph: Graph) -> Iterator[None]:
        calls.append("begin")
        yield
        calls.append("end")

    @contextmanager
    def on_stream(stream: object) -> Iterator[None]:
        calls.append("side stream")
        yield

    class Network:
        def __init__(self) -> None:
            self.inputs: list[torch.Tensor] = []

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            calls.append("run")
            self.inputs.append(images)
            return output

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda: stream, current_stream=lambda: stream, stream=on_stream, CUDAGraph=Graph, graph=recording
    )
    monkeypatch.setattr(torch_runtime.torch, "cuda", cuda)
    output, network = torch.zeros(2), Network()
    graph = torch_runtime.CudaGraph(network, [torch.ones(2)])
    assert calls == ["side stream", "run", "run", "run", "begin", "run", "end"]
    calls.clear()
    for value in (3.0, 5.0):
        given = torch.full((2,), value)
        assert graph([given]).tolist() == [2 * value] * 2
        assert network.inputs[-1] is not given  # copied to where the graph reads
    assert calls == ["replay", "replay"]


@needs_pytorch
def test_outputs_of_a_gpu_are_there_when_they_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that writes nothing before it is waited for, and only to pages that stay where they are."""
    import torch  # noqa: PLC0415

    from phidet.inference.runtimes import torch_runtime  # noqa: PLC0415

    late: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Pinned(torch.Tensor):
        def copy_(self, values: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            late.append((place := self.as_subclass(torch.Tensor), values))
            return place

    class OnGpu(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

        def float(self) -> OnGpu:  # type: ignore[override]
            return self.as_subclass(torch.Tensor).to(torch.float32).as_subclass(OnGpu)

    def empty(shape: Any, *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        return torch.full(shape, torch.nan, dtype=dtype).as_subclass(Pinned)

    def write() -> None:
        for place, values in late:
            place[...] = values.as_subclass(torch.Tensor)
        late.clear()

    monkeypatch.setattr(torch_runtime.torch, "empty", empty)
    stream = SimpleNamespace(synchronize=write)
    monkeypatch.setattr(torch_runtime.torch, "cuda", SimpleNamespace(current_stream=lambda device: stream))
    halves = {name: torch.randn(2, 3).half() for name in ("boxes", "logits")}
    found = torch_runtime.in_memory({name: values.as_subclass(OnGpu) for name, values in halves.items()})
    for name, values in halves.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], values.float().numpy())


@needs_pytorch
def test_pytorch_without_a_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch  # noqa: PLC0415

    from peers import tiny_detector  # noqa: PLC0415
    from phidet.weights.create import create_model  # noqa: PLC0415
    from phidet.weights.native import save_model  # noqa: PLC0415

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_model(create_model(tiny_detector()), tmp_path / "m.safetensors")
    detector = Detector(tmp_path / "m.safetensors", device="cuda")
    assert caplog.messages == ["PyTorch does not reach a GPU here: m.safetensors runs on the CPU"]
    assert len(detector(np.zeros((40, 40, 3), np.uint8))) >= 0
