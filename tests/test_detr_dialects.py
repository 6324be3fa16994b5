"""DETR's weights in the files of others: the official ones, transformers' of both versions, and the demo's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import slowly
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.config import DetrConfig, TransformerConfig
from phidet.architectures.detr.published import PUBLISHED, detr_config
from phidet.architectures.detr.published_files import detector_file
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError
from phidet.core.structs import replace
from phidet.weights.convert import convert
from phidet.weights.create import create_model
from phidet.weights.dialects import known_dialects
from phidet.weights.load import open_source
from phidet.weights.mapping import to_ours, to_theirs, weights_of
from phidet.weights.native import load_model, save_model

SMALL = TransformerConfig(width=32, heads=4, encoder_layers=2, decoder_layers=3, feed_forward=48)
R18, R50, R101 = (BackboneConfig(architecture=f"resnet{depth}") for depth in (18, 50, 101))  # type: ignore[arg-type]


def small(**changes: Any) -> DetrConfig:
    """Two and three narrow layers on a whole ResNet, which is what other code can build, too."""
    fields = {"name": "small", "backbone": R18, "class_names": ("a", "b", "c"), "transformer": SMALL, "queries": 7}
    return DetrConfig(**{**fields, **changes})  # type: ignore[arg-type]


def randomised(config: DetrConfig, seed: int = 0) -> Any:
    """Every tensor is another one than at the start, also those that start as 0 or 1."""
    torch.manual_seed(seed)
    model = architecture_of(config).build(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn(tensor.shape))
    return model.eval()


def mapped_back(model: Any, dialect: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors in a dialect, and the same ones back under our names."""
    theirs = known_dialects()[dialect][1]
    foreign = to_theirs(weights_of(model), theirs, model.config)
    back = to_ours(foreign, theirs, model.config, weights_of(model))
    assert not back.missing
    assert not back.unexpected
    return foreign, back.tensors


CASES = [
    ("detr", {}),
    ("detr", {"position": "learned"}),
    ("detr", {"transformer": replace(SMALL, {"pre_norm": True})}),
    ("detr-demo", {"form": "demo", "position": "learned"}),
    ("detr-listing", {"form": "demo", "position": "learned"}),
    *((name, {}) for name in ("transformers", "transformers-no-timm", "transformers-5", "transformers-5-no-timm")),
    *((name, {"position": "learned"}) for name in ("transformers", "transformers-5")),
]


@pytest.mark.parametrize(("dialect", "changes"), CASES)
def test_there_and_back_is_the_same_in_every_tensor(dialect: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = randomised(small(**changes))
    foreign, back = mapped_back(model, dialect)
    for name, tensor in weights_of(model).items():
        assert torch.equal(back[name], tensor), name
    torch.save({"model": foreign, "epoch": 3}, tmp_path / "their.pth")
    # The file alone says how many classes, queries and layers there are, and which positions and norms.
    published = detr_config("detr-demo" if dialect in ("detr-demo", "detr-listing") else "detr-r50")
    source = open_source(tmp_path / "their.pth")
    assert source.kind == dialect
    adapted = source.adapt(replace(published, {"transformer": replace(SMALL, {"encoder_layers": 6})}))
    assert (adapted.num_classes, adapted.queries, adapted.position) == (3, 7, model.config.position)
    assert adapted.transformer == model.config.transformer
    assert adapted.feature_scale == (1.0 if dialect == "detr-listing" else 0.1)
    loaded = create_model(model.config, pretrained=tmp_path / "their.pth")
    for name, tensor in weights_of(loaded).items():
        assert torch.equal(tensor, weights_of(model)[name]), name


def theirs_of(config: DetrConfig) -> Any:
    """transformers' network of the same sizes, on timm's backbone."""
    transformers = pytest.importorskip("transformers")
    size = config.transformer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of names that have moved
        their_config = transformers.DetrConfig(
            backbone=config.backbone.architecture,
            use_timm_backbone=True,
            use_pretrained_backbone=False,
            dilation=config.dilation,
            num_labels=config.num_classes,
            num_queries=config.queries,
            d_model=size.width,
            encoder_layers=size.encoder_layers,
            decoder_layers=size.decoder_layers,
            encoder_attention_heads=size.heads,
            decoder_attention_heads=size.heads,
            encoder_ffn_dim=size.feed_forward,
            decoder_ffn_dim=size.feed_forward,
            position_embedding_type=config.position,
        )
        return transformers.DetrForObjectDetection(their_config).double().eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *slowly(
            {"backbone": R50, "position": "learned", "dilation": True},
            {"backbone": R101, "dilation": True},
        ),
    ],
    ids=["r18", "r50-dc5-learned", "r101-dc5"],
)
def test_transformers_answers_the_same_from_our_file(changes: dict[str, Any], tmp_path: Path) -> None:
    """And we the same from theirs; also dilated, for which there are no official values here."""
    model = randomised(small(**changes))
    their_network = theirs_of(model.config)
    save_model(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="transformers-5")
    their_network.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True), strict=True)
    sizes = torch.tensor([[128, 96], [70, 128]])
    images = torch.zeros(2, 3, 128, 128, dtype=torch.float64)
    present = torch.zeros(2, 128, 128, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    for i, (height, width) in enumerate(sizes.tolist()):
        images[i, :, :height, :width] = torch.randn(3, height, width, generator=generator, dtype=torch.float64)
        present[i, :height, :width] = 1
    with torch.no_grad():
        ours = model.double()(images, sizes)
        theirs = their_network(pixel_values=images, pixel_mask=present)
    torch.testing.assert_close(ours.class_logits, theirs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.boxes_cxcywh, theirs.pred_boxes, rtol=0, atol=1e-6)
    # The other way round: what transformers saves, under the names of 4.x, which its files keep.
    their_network.save_pretrained(tmp_path / "saved")
    config = replace(model.config, {"name": "again"})
    again = create_model(config, pretrained=tmp_path / "saved" / "model.safetensors").double().eval()
    assert open_source(tmp_path / "saved" / "model.safetensors").kind == "transformers"
    with torch.no_grad():
        torch.testing.assert_close(again(images, sizes).class_logits, ours.class_logits, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_file_that_fits_several_models_says_so(tmp_path: Path) -> None:
    """Dilation changes no tensor: only its name tells which of two models a file is."""
    model = architecture_of(detr_config("detr-r50")).build(detr_config("detr-r50"))
    torch.save({"model": mapped_back(model, "detr")[0]}, tmp_path / "some.pth")
    with pytest.raises(CheckpointError, match="matches detr-r50 and detr-r50-dc5 equally well"):
        convert(tmp_path / "some.pth", tmp_path / "some.safetensors")
    report = convert(tmp_path / "some.pth", tmp_path / "some.safetensors", model="detr-r50-dc5")
    assert (report.kind, report.model, report.tensors) == ("detr", "detr-r50-dc5", 458)


def test_every_published_file_is_named_with_its_checksum() -> None:
    for name in PUBLISHED:
        file = detector_file(name)
        assert file.url.startswith("https://dl.fbaipublicfiles.com/detr/detr")
        assert file.sha256_prefix == file.name.removesuffix(".pth").rpartition("-")[2]
        assert len(file.sha256_prefix) == 8
        assert DETR.pretrained_file(detr_config(name), "coco", name) == file


def test_a_new_class_predictor_starts_fresh_and_the_queries_stay(tmp_path: Path) -> None:
    model = randomised(small())
    save_model(model, tmp_path / "ours.safetensors")
    assert torch.equal(load_model(tmp_path / "ours.safetensors").queries.weight, model.queries.weight)  # type: ignore[union-attr]
    changed = create_model(
        model.config, pretrained=tmp_path / "ours.safetensors", class_names=("x", "y"), replace_head=True
    )
    assert changed.class_head.out_features == 3  # type: ignore[union-attr]
    assert torch.equal(changed.queries.weight, model.queries.weight)  # type: ignore[union-attr]
