"""DETR's masks and panoptic segments equal the official implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

import detr_reference as reference
from phidet.architectures.batch import Batch
from phidet.architectures.costs import build_on_meta
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.config import DetrConfig, MaskConfig, TransformerConfig
from phidet.architectures.detr.decode import DetrDecoder
from phidet.architectures.detr.loss import DetrLoss
from phidet.architectures.detr.loss_config import DetrLossConfig
from phidet.architectures.detr.mask_losses import dice_loss, focal_loss
from phidet.architectures.detr.network import DetrOutputs
from phidet.architectures.detr.panoptic import instance_mask, panoptic, resize_bilinear
from phidet.architectures.detr.published import COCO_PANOPTIC, detr_config
from phidet.architectures.prepared import Placement
from phidet.architectures.processes import Processes
from phidet.core.errors import ConfigError
from phidet.data.layouts import open_data
from phidet.detections.masks import FIELD
from phidet.detections.settings import PostprocessSettings
from phidet.training.loading import EpochSampler, pad_objects
from phidet.training.optim import frozen_parts
from phidet.training.recipe import recipe_named
from phidet.training.task import Task
from phidet.weights.create import create_model
from phidet.weights.native import save_model
from test_detr_dialects import R18, mapped_back, randomised
from test_train_run import CLASSES, write_squares

ALONE = Processes(1, lambda value: value)
SMALL = TransformerConfig(width=128, heads=4, encoder_layers=1, decoder_layers=1, feed_forward=32)


def small(masks: bool = True) -> DetrConfig:
    return DetrConfig(
        name="small",
        backbone=R18,
        class_names=("cat", "sky"),
        transformer=SMALL,
        queries=5,
        masks=MaskConfig(stuff=("sky",)) if masks else None,
    )


def test_parameters_are_the_official_ones() -> None:
    for name, parameters in (("detr-r50-panoptic", 42_899_288), ("detr-r101-panoptic", 61_839_192)):
        model = build_on_meta(DETR.published_config(name))
        assert sum(p.numel() for p in model.parameters()) == parameters
        for part, count in (("mask_head", 1_202_073), ("mask_attention", 131_584)):
            assert sum(p.numel() for p in model.get_submodule(part).parameters()) == count


@pytest.mark.parametrize("depth", [50, 101])
def test_every_official_tensor_has_its_place(shared: Path, depth: int) -> None:
    config = detr_config(f"detr-r{depth}-panoptic")
    model = build_on_meta(config)
    dialect = next(one for one in DETR.dialects() if one.name == "detr-panoptic")
    slots = {ours: dialect.slot(ours, config) for ours in model.state_dict()}
    shapes = {slots[ours].keys[0]: tuple(t.shape) for ours, t in model.state_dict().items()}  # type: ignore[union-attr]
    assert shapes == reference.official_keys(shared, f"resnet{depth}_panoptic")


def test_masks_of_a_padded_batch(shared: Path) -> None:
    values = reference.values(shared, "panoptic_model")
    tensors = reference.seeded_tensors(shared, reference.official_keys(shared, "resnet50_panoptic"))
    model: Any = reference.with_weights(detr_config("detr-r50-panoptic"), tensors, "detr-panoptic")
    images, sizes = reference.images(shared, values["image_sizes"])
    with torch.no_grad():
        features = model.features(images, sizes)
        memory = model.encode(features)
        known = model.decode(features, memory)
        attention = model.mask_attention(known[-1], memory, features.attended)
        outputs = model.answers(known)
        masks = model.masks(features, memory, known)[:, :40]
    found = attention.reshape(2, 100, 8, 4, 5)[:, :20].numpy()
    np.testing.assert_allclose(found, values["attention_q20"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sum((2, 3, 4)), 1, rtol=1e-9)
    np.testing.assert_allclose(outputs.class_logits.numpy(), values["pred_logits_f64"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs.boxes_cxcywh.numpy(), values["pred_boxes_f64"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(masks[:, :10].numpy(), values["pred_masks_q10_f64"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(masks.numpy(), values["pred_masks_q40"], rtol=0, atol=2e-2)
    for i in range(2):
        shape = values[f"segm_shape{i}"].tolist()
        wanted = np.unpackbits(values[f"segm_packed{i}"])[: int(np.prod(shape))].reshape(shape)[:40, 0]
        valid_hw, image_hw = (tuple(values[key][i].tolist()) for key in ("image_sizes", "orig_sizes"))
        for mask, official in zip(masks[i].numpy(), wanted, strict=True):
            mine = instance_mask(mask, (128, 160), valid_hw, image_hw)
            assert (mine != official).mean() < 2e-3  # borders, where theirs is rounded to fp32


@pytest.mark.parametrize("case", ["things_stuff", "tiny_segment", "nothing", "one_thing", "low_threshold"])
def test_panoptic_segments(shared: Path, case: str) -> None:
    values = reference.values(shared, "panoptic_post")
    logits, masks = (values[f"{case}_{part}"][0] for part in ("logits", "masks"))
    size_hw, image_hw = (tuple(values[f"{case}_{part}"].tolist()) for part in ("size", "target"))
    things = np.arange(250) <= 90
    found = panoptic(logits, masks, (size_hw, size_hw), image_hw, things, float(values[f"{case}_threshold"]))
    np.testing.assert_array_equal(found.ids, values[f"{case}_ids"])
    assert [tuple(map(int, segment)) for segment in found.segments] == [
        *map(tuple, values[f"{case}_segments"].tolist())
    ]


def test_things_and_stuff_of_the_published_classes() -> None:
    config = detr_config("detr-r50-panoptic")
    assert len(COCO_PANOPTIC) == len(set(COCO_PANOPTIC)) == 250
    assert (COCO_PANOPTIC[1], COCO_PANOPTIC[90], COCO_PANOPTIC[92], COCO_PANOPTIC[200]) == (
        *("person", "toothbrush", "banner", "rug-merged"),
    )
    assert config.masks is not None
    assert [i for i, name in enumerate(config.class_names) if name not in config.masks.stuff] == list(range(91))


def test_resizing_is_pytorchs() -> None:
    plane = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    for size in ((28, 36), (13, 40), (7, 9), (3, 4)):
        wanted = F.interpolate(torch.from_numpy(plane)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(resize_bilinear(plane, size), wanted.numpy(), rtol=0, atol=1e-6)


def test_dice_and_focal_loss(shared: Path) -> None:
    values = reference.values(shared, "mask_losses")
    logits = torch.from_numpy(values["logits"]).double().requires_grad_()
    target = torch.from_numpy(values["target"]).double()
    dice, focal = dice_loss(logits, target).sum(), focal_loss(logits, target).sum()
    for count in (1, 3):
        assert float(dice.detach()) / count == pytest.approx(float(values[f"dice_nb{count}"]), rel=1e-6)
        assert float(focal.detach()) / count == pytest.approx(float(values[f"focal_nb{count}"]), rel=1e-6)
    (gradient,) = torch.autograd.grad((dice + focal) / 3, logits)
    np.testing.assert_allclose(gradient.numpy(), values["grad_sum_nb3"], rtol=1e-4, atol=1e-7)


def test_losses_of_a_batch_with_masks(shared: Path) -> None:
    """Masks of images of two sizes: padding counts as not the object, as in the official code."""
    values = reference.values(shared, "mask_losses")
    logits, boxes, masks = (torch.from_numpy(values[f"lm_{part}"]).double() for part in ("logits", "boxes", "masks"))
    masks.requires_grad_()
    wanted = torch.zeros(2, 3, 48, 64, dtype=torch.uint8)
    for i in range(2):
        given = torch.from_numpy(values[f"lm_tgt_masks{i}"])
        wanted[i, : len(given), : given.shape[1], : given.shape[2]] = given
    relative = [torch.from_numpy(values[f"lm_tgt_boxes{i}"]) for i in range(2)]
    padded, ids = pad_objects(relative, [torch.from_numpy(values[f"lm_tgt_labels{i}"]) for i in range(2)])
    corners = torch.cat([padded[..., :2] - padded[..., 2:] / 2, padded[..., :2] + padded[..., 2:] / 2], -1)
    valid = torch.tensor([[48, 64], [40, 52]])
    pixels = corners * valid[:, None, [1, 0, 1, 0]]
    batch = Batch(torch.zeros(2, 3, 48, 64, dtype=torch.uint8), valid, pixels, ids, masks=wanted)
    outputs = DetrOutputs(logits, boxes, logits[None][:0], boxes[None][:0], masks)
    losses = DetrLoss(8, DetrLossConfig(class_weight=0, box_weight=0, giou_weight=0))(outputs, batch, ALONE)
    official = dict(zip(values["lm_loss_names"].tolist(), values["lm_loss_values"].tolist(), strict=True))
    assert float(losses["mask_loss"].detach()) == pytest.approx(official["loss_mask"], rel=1e-5)
    assert float(losses["dice_loss"].detach()) == pytest.approx(official["loss_dice"], rel=1e-5)
    losses["loss"].backward()
    assert masks.grad is not None
    np.testing.assert_allclose(masks.grad.numpy(), values["lm_grad_masks"], rtol=0, atol=1e-6)
    # An object without a mask teaches boxes alone: the losses are those of the others.
    wanted[1, 0] = 255
    fewer = DetrLoss(8, DetrLossConfig())(outputs, batch, ALONE)
    assert 0 < float(fewer["mask_loss"].detach()) < official["loss_mask"]
    none = DetrLoss(8, DetrLossConfig())(outputs, batch._replace(masks=None), ALONE)
    assert float(none["mask_loss"].detach()) == 0


@pytest.mark.parametrize("dialect", ["detr-panoptic", "transformers", "transformers-no-timm", "transformers-5"])
def test_there_and_back_is_the_same_in_every_tensor(dialect: str) -> None:
    model = randomised(small())
    foreign, back = mapped_back(model, dialect)
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items() if name in back)
    assert len(foreign) >= len(back) == len([name for name in model.state_dict() if "num_batches" not in name])


def test_transformers_segments_the_same() -> None:
    transformers = pytest.importorskip("transformers")
    size = msgspec.structs.replace(SMALL, heads=8)  # theirs for masks are those of the encoder
    model = randomised(msgspec.structs.replace(small(), transformer=size))
    same = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 128}
    config = transformers.DetrConfig(num_labels=2, num_queries=5, backbone="resnet18", **same)
    theirs = transformers.DetrForSegmentation(config).double().eval()
    theirs.load_state_dict(mapped_back(model, "transformers-5")[0], strict=True)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours, their_outputs = model.double()(images), theirs(images)
    torch.testing.assert_close(ours.class_logits, their_outputs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.mask_logits, their_outputs.pred_masks, rtol=0, atol=1e-4)


def test_masks_are_added_to_a_trained_detector_that_then_stays(tmp_path: Path) -> None:
    detector = randomised(small(masks=False))
    save_model(detector, tmp_path / "boxes.safetensors")
    torch.save(mapped_back(detector, "detr")[0], tmp_path / "boxes.pth")
    for name in ("boxes.safetensors", "boxes.pth"):
        model: Any = create_model(small(), pretrained=tmp_path / name)
        assert torch.equal(model.class_head.weight, detector.class_head.weight)
        assert model.mask_head is not None
    recipe = recipe_named("detr-masks", 100, DETR)
    assert (recipe.epochs, round(recipe.epochs * recipe.step_at)) == (25, 15)
    for part in frozen_parts(model, recipe):
        part.requires_grad_(False)
    learning = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"mask_head", "mask_attention"}
    with pytest.raises(ConfigError, match="no masks to train"):
        frozen_parts(detector, recipe)


def test_detections_carry_their_masks() -> None:
    config = small()
    decode = DetrDecoder(config)
    logits = np.full((5, 3), -9, np.float32)
    logits[0, 0], logits[1, 1], logits[2:, 2] = 9, 8, 9
    masks = np.full((5, 200, 300), -5, np.float32)
    masks[0, :100], masks[1, 100:] = 5, 5  # the upper half is a cat, the lower one sky
    outputs = {"class_logits": logits, "boxes_cxcywh": np.full((5, 4), 0.5, np.float32), "mask_logits": masks}
    placement = Placement(8.0, (100, 150))
    found = decode(outputs, placement, PostprocessSettings())
    assert found.labels == ["cat", "sky"]
    full = found.fields[FIELD].to_full()  # type: ignore[union-attr]
    assert full[0, :50].all()
    assert not full[0, 50:].any()
    assert full[1, 50:].all()
    whole = decode.panoptic(outputs, placement)
    assert [(segment.is_thing, segment.class_id, segment.area) for segment in whole.segments] == [
        (True, 0, 7500),
        (False, 1, 7500),
    ]
    np.testing.assert_array_equal(whole.ids[:, 0], [0] * 50 + [1] * 50)


def test_masks_of_labels_reach_the_loss_in_their_places(tmp_path: Path) -> None:
    """Squares with outlines: at every scale, crop and padding the mask fills the box that is learned."""
    write_squares(tmp_path, 4)
    labels = next(tmp_path.rglob("*.json"))
    content = msgspec.json.decode(labels.read_bytes())
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        one["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    labels.write_bytes(msgspec.json.encode(content))
    config = msgspec.structs.replace(small(), class_names=CLASSES, image_size_hw=(64, 96))
    task = Task(config, open_data(tmp_path).read("train"), None)
    recipe = recipe_named("detr", 4, DETR)
    batch = next(iter(task.loader(recipe, 0, EpochSampler(4, 4, 0), 0)))
    assert batch.masks is not None
    assert batch.masks.shape[2:] == batch.pixels.shape[2:]
    seen = 0
    for boxes, ids, masks in zip(batch.boxes_xyxy, batch.class_ids, batch.masks, strict=True):
        for box, mask in zip(boxes[ids >= 0], masks[ids >= 0], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            torch.testing.assert_close(edges.float(), box, rtol=0, atol=1.1)
            seen += 1
    assert seen >= 3
    fabric = Fabric(accelerator="cpu", devices=1)
    losses = task.losses(fabric, create_model(config).train(), batch, recipe)
    assert float(losses["mask_loss"].detach()) > 0
    assert 0 < float(losses["dice_loss"].detach()) <= 1
