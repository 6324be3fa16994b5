"""What several test files need: the shared reference, and peers with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

import phidet  # before any test's import of ONNX Runtime, which reports its use otherwise

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2] / "shared"
WITH_PYTORCH = find_spec("torch") is not None
needs_pytorch = pytest.mark.skipif(not WITH_PYTORCH, reason="needs PyTorch")

# A property holds however long an example takes on a busy machine.
settings.register_profile("phidet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("phidet")


def slowly(*values: object) -> list[object]:
    """Values of a test's parameter that are left to the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def usually(*names: str, among: Iterable[str]) -> list[object]:
    """``names``, and the rest of ``among``, which is more of the same, for the slow tests."""
    return [*names, *slowly(*(name for name in among if name not in names))]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without PyTorch, as in `make test-lowest`, leaves out the files that import it or what is developed with it."""
    if WITH_PYTORCH or not collection_path.match("test_*.py"):
        return None
    try:
        import_module(collection_path.stem)
    except (ModuleNotFoundError, phidet.MissingExtraError, pytest.skip.Exception) as error:
        if (getattr(error, "name", None) or "").startswith("phidet"):
            return None  # a mistake of ours, which pytest reports
        return True
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference values and data; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    return SHARED


@pytest.fixture(scope="module")
def unrendered() -> Iterator[None]:
    """Figures and sheets of a report are files of one pixel: to draw them takes most of the time of a short training.

    For tests of something else; those of the walk-through, of the plots and of the sheets render what they draw.
    """

    def savefig(_: object, out: IO[bytes], **__: object) -> None:
        Image.new("L", (1, 1)).save(out, "PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", savefig)
        for module in ("classification_report", "mistake_sheet", "report_folder"):
            patch.setattr(f"phidet.evaluation.{module}.draw_sheet", lambda *_: Image.new("L", (1, 1)))
        yield


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Gives batch norms random statistics and factors, fusion weights random values of both signs.

    Factors stay below 1 so that the random network is not chaotic: with larger ones a peer's own fp32 answer is
    percents away from its fp64 answer, and a comparison in fp32 says nothing.
    """
    import torch  # noqa: PLC0415 - the tests of the core and the server run without it
    from torch import nn  # noqa: PLC0415

    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.running_var is not None
                m.weight.copy_(0.5 + 0.5 * torch.rand(m.weight.shape, generator=g))
                m.bias.copy_(0.1 * torch.randn(m.bias.shape, generator=g))
                m.running_mean.copy_(0.1 * torch.randn(m.bias.shape, generator=g))
                m.running_var.copy_(0.5 + torch.rand(m.bias.shape, generator=g))
        for name, p in module.named_parameters():
            if name.endswith(("edge_weights", ".weights")):
                p.copy_(2 * torch.rand(p.shape, generator=g) - 0.3)
            elif name.endswith("bias") and p.ndim == 1 and "bn" not in name:
                p.add_(0.05 * torch.randn(p.shape, generator=g))


def off_by(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the peer's standard deviation."""
    return float((ours - theirs).abs().max() / theirs.std())


def rms_off_by(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square difference in units of the peer's standard deviation."""
    return float((ours - theirs).double().square().mean().sqrt() / theirs.double().std())
