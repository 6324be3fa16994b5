"""Same weights, same answers as effdet, for the whole family.

The comparison that decides is made in fp64, where both sides have nothing to hide behind: rounding. In fp32 a
random network amplifies rounding, and two correct programs differ by what either of them differs from the truth.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import peers
from conftest import off_by, randomise, rms_off_by, usually
from phidet import create_model
from phidet.architectures.costs import build_on_meta
from phidet.architectures.efficientdet.dialect_effdet import EFFDET
from phidet.architectures.efficientdet.published import DETECTOR_NAMES, detector_config
from phidet.weights.mapping import to_ours, weights_of

SQUARE, ODD = (256, 256), (300, 420)


@pytest.mark.parametrize("name", usually("efficientdet-d0", "efficientdet-lite0", among=DETECTOR_NAMES))
def test_same_weights_same_answers(name: str, tmp_path: Path) -> None:
    peer = peers.effdet_model(name, SQUARE)
    randomise(peer)
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    ours = create_model(name, pretrained=tmp_path / "peer.pth").eval()
    weights = peer.state_dict()
    g = torch.Generator().manual_seed(1)
    for size in (SQUARE, ODD):
        images = torch.randn(1, 3, *size, generator=g)
        with torch.device("meta"):  # without fresh weights, which take seconds to draw
            peer = peers.effdet_model(name, size).eval()
        peer.load_state_dict(weights, assign=True)
        for dtype, bound, distance in ((torch.float32, 1e-4, rms_off_by), (torch.float64, 1e-9, off_by)):
            with torch.inference_mode():
                classes, boxes = peer.to(dtype)(images.to(dtype))
                out = ours.to(dtype)(images.to(dtype))
            for mine, theirs in ((out.class_logits, classes), (out.box_deltas, boxes)):
                levels = peers.flat_levels(theirs, mine.shape[2])
                for level, (a, b) in enumerate(zip(peers.split_like(mine, levels), levels, strict=True)):
                    assert distance(a, b) < bound, f"{size}, {dtype}, level {level}"
        ours.float()


def test_gradients_of_d0_agree() -> None:
    size = (128, 192)
    peer = peers.effdet_model("efficientdet-d0", size).double()
    randomise(peer)
    ours = create_model("efficientdet-d0").double()
    state = to_ours(
        {k: v for k, v in peer.state_dict().items() if not k.endswith("num_batches_tracked")},
        EFFDET,
        ours.config,
        weights_of(ours),
    )
    ours.load_state_dict(state.tensors, strict=False)
    g = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, *size, generator=g, dtype=torch.float64)
    ours.train()
    peer.train()
    out = ours(images)
    cotangents = [torch.randn(o.shape, generator=g, dtype=torch.float64) for o in out]
    sum((o * c).sum() for o, c in zip(out, cotangents, strict=True)).backward()
    classes, boxes = peer(images)
    flat = [torch.cat(peers.flat_levels(classes, 90), 1), torch.cat(peers.flat_levels(boxes, 4), 1)]
    sum((o * c).sum() for o, c in zip(flat, cotangents, strict=True)).backward()

    theirs = to_ours(
        {name: p.grad for name, p in peer.named_parameters()}, EFFDET, ours.config, dict(ours.named_parameters())
    )
    assert not theirs.missing
    assert not theirs.unexpected
    scale = max(float(g.abs().max()) for g in theirs.tensors.values())
    for name, p in ours.named_parameters():
        assert p.grad is not None, name
        difference = float((p.grad - theirs.tensors[name]).abs().max())
        # A bias in front of a batch norm has no gradient but rounding, hence the second term.
        assert difference <= 1e-7 * float(theirs.tensors[name].abs().max()) + 1e-13 * scale, name


@pytest.mark.slow
def test_parameter_counts_of_the_lites_equal_effdets() -> None:
    for name in DETECTOR_NAMES:
        if "lite" in name:
            with torch.device("meta"):
                peer = peers.effdet_model(name, (640, 640))
            ours = build_on_meta(detector_config(name))
            assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
