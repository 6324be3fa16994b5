"""DETR equals the official implementation: answers, losses, gradients, positions, the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import detr_reference as reference
from phidet.architectures.base import Placement, Processes
from phidet.architectures.costs import build_on_meta
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.decode import DetrDecoder, answers_of
from phidet.architectures.detr.loss import DetrLoss
from phidet.architectures.detr.loss_config import DetrLossConfig
from phidet.architectures.detr.network import DetrOutputs
from phidet.architectures.detr.positions import LearnedPositions, padding_of_cells, sine_positions
from phidet.architectures.detr.published import detr_config
from phidet.architectures.registry import published_config
from phidet.architectures.sets.targets import SetTargets
from phidet.core.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from phidet.detections.settings import PostprocessSettings
from phidet.training.loading import pad_objects
from phidet.training.optim import frozen_parts
from phidet.training.recipe import recipe_named

ALONE = Processes(1, lambda value: value)


class Seeded:
    """DETR-R50 with seeded weights, what it answers, and the official values."""

    def __init__(self, shared: Path) -> None:
        self.values = reference.values(shared, "detr_r50")
        tensors = reference.seeded_tensors(shared, reference.official_keys(shared, "resnet50"))
        self.model: Any = reference.with_weights(detr_config("detr-r50"), tensors)
        self.images, self.valid_hw = reference.images(shared, self.values["image_sizes"])
        # As the official one: the stem and the first stage never learn.
        recipe = recipe_named("detr", 1000, DETR)
        for part in frozen_parts(self.model, recipe):
            part.requires_grad_(False)
        self.outputs: DetrOutputs = self.model(self.images, self.valid_hw)


@pytest.fixture(scope="module")
def seeded(shared: Path) -> Seeded:
    return Seeded(shared)


def close(ours: Tensor, theirs: np.ndarray[Any, Any], bound: float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=bound)


# ---- sizes


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "trainable"),
    [
        ("detr-r50", 91, 41_524_768, 41_302_368),
        ("detr-r50-dc5", 91, 41_524_768, 41_302_368),
        ("detr-r101", 91, 60_464_672, 60_242_272),
        ("detr-r101-dc5", 91, 60_464_672, 60_242_272),
        ("detr-r50", 250, 41_565_631, 41_343_231),
    ],
)
def test_parameters_are_the_official_ones(name: str, classes: int, parameters: int, trainable: int) -> None:
    names = None if classes == 91 else tuple(f"class {i}" for i in range(classes))
    model = build_on_meta(DETR.published_config(name, names))
    assert sum(p.numel() for p in model.parameters()) == parameters
    for part in frozen_parts(model, recipe_named("detr", 1000, DETR)):
        part.requires_grad_(False)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_every_official_tensor_has_its_place(shared: Path, name: str) -> None:
    config = detr_config(f"detr-r{name.removeprefix('resnet')}")
    model = build_on_meta(config)
    slots = {ours: DETR.dialects()[0].slot(ours, config) for ours in model.state_dict()}
    shapes = {slots[ours].keys[0]: tuple(t.shape) for ours, t in model.state_dict().items()}  # type: ignore[union-attr]
    assert shapes == reference.official_keys(shared, name)


# ---- answers


def test_answers_to_a_padded_batch(seeded: Seeded) -> None:
    outputs, values = seeded.outputs, seeded.values
    close(outputs.class_logits, values["pred_logits_f64"], 1e-9)
    close(outputs.boxes_cxcywh, values["pred_boxes_f64"], 1e-10)
    close(outputs.auxiliary_logits, values["aux_logits"], 2e-3)
    close(outputs.auxiliary_boxes, values["aux_boxes"], 1e-4)


def test_padding_is_attended_by_nothing(seeded: Seeded) -> None:
    values = seeded.values
    with torch.no_grad():
        features = seeded.model.features(seeded.images, seeded.valid_hw)
    np.testing.assert_array_equal(~features.attended.reshape(2, 4, 5).numpy(), values["pixel_mask_pad"])
    close(features.maps[5][:, :32], values["layer4_slice"], 1e-4)
    positions = features.positions.transpose(1, 2).reshape(2, 256, 4, 5)
    close(positions[:, ::16], values["pos_slice"], 1e-6)


def test_an_image_alone_needs_no_mask(seeded: Seeded) -> None:
    values, (height, width) = seeded.values, seeded.valid_hw[1].tolist()
    alone = seeded.images[1:, :, :height, :width]
    with torch.no_grad():
        bare, masked = seeded.model(alone), seeded.model(alone, seeded.valid_hw[1:])
    close(bare.class_logits, values["alone1_logits"], 2e-3)
    close(bare.boxes_cxcywh, values["alone1_boxes"], 1e-4)
    torch.testing.assert_close(masked.class_logits, bare.class_logits, rtol=0, atol=1e-10)


def test_detections_are_the_official_post_processing(seeded: Seeded) -> None:
    values = seeded.values
    for i, image_hw in enumerate(values["post_target_sizes_hw"].tolist()):
        logits, boxes = values["pred_logits"][i], values["pred_boxes"][i]
        found = answers_of(logits, boxes, tuple(image_hw))
        np.testing.assert_allclose(found.scores, values["post_scores"][i], rtol=1e-5)
        np.testing.assert_array_equal(found.class_ids, values["post_labels"][i])
        np.testing.assert_allclose(found.boxes_xyxy, values["post_boxes"][i], rtol=1e-5, atol=1e-3)
        decode = DetrDecoder(detr_config("detr-r50"))
        every = PostprocessSettings(score=0, max_detections=100)
        outputs = {"class_logits": logits, "boxes_cxcywh": boxes}
        detections = decode(outputs, Placement(1.0, tuple(image_hw)), every)
        np.testing.assert_allclose(np.sort(detections.scores), np.sort(values["post_scores"][i]), rtol=1e-5)


def test_limits_of_the_decoder() -> None:
    logits = np.array([[3.0, 0, 0], [0, 4.0, 0], [0, 1.0, 5.0]], np.float32)
    boxes = np.full((3, 4), 0.5, np.float32)
    decode, placement = DetrDecoder(detr_config("detr-r50", ("a", "b"))), Placement(1.0, (10, 20))
    outputs = {"class_logits": logits, "boxes_cxcywh": boxes}
    # The third query is an object less likely than not, and has the score of its class all the same.
    every = decode(outputs, placement, PostprocessSettings(score=0.01))
    assert every.labels == ["b", "a", "b"]
    np.testing.assert_allclose(every.boxes_xyxy, [[5, 2.5, 15, 7.5]] * 3)
    assert decode(outputs, placement, PostprocessSettings(score=0.01, max_detections=1)).labels == ["b"]
    assert decode(outputs, placement, PostprocessSettings(score=0.01, classes=("a",))).labels == ["a"]
    assert len(decode(outputs, placement, PostprocessSettings(score=0.5))) == 2
    with pytest.raises(UnknownNameError, match="cat"):
        decode(outputs, placement, PostprocessSettings(classes=("cat",)))
    outputs["boxes_cxcywh"][0, 0] = np.nan
    with pytest.raises(CheckpointError, match="NaN"):
        decode(outputs, placement, PostprocessSettings())


# ---- losses


def targets_of(values: dict[str, Any], boxes: str, labels: str, count: int) -> SetTargets:
    wanted = [torch.from_numpy(values[f"{boxes}{i}"]).reshape(-1, 4) for i in range(count)]
    padded, ids = pad_objects(wanted, [torch.from_numpy(values[f"{labels}{i}"]) for i in range(count)])
    return SetTargets(ids, padded)


def by_official_name(loss: DetrLoss, outputs: DetrOutputs, targets: SetTargets) -> tuple[dict[str, float], Tensor]:
    """Losses under the official names, and what is minimised."""
    layers = loss.layers(outputs, targets, loss.match(outputs, targets), ALONE)
    named: dict[str, float] = {}
    for i, layer in enumerate(layers):
        suffix = "" if i == len(layers) - 1 else f"_{i}"
        ours = (layer.class_loss, layer.box_loss, layer.giou_loss, layer.cardinality_error)
        theirs = ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error")
        named |= {f"{name}{suffix}": float(value.detach()) for name, value in zip(theirs, ours, strict=True)}
    named["class_error"] = float(layers[-1].class_error)
    return named, torch.stack([loss.weighted(layer) for layer in layers]).sum()


def test_losses_and_gradients_of_a_step(seeded: Seeded) -> None:
    values = seeded.values
    targets = targets_of(values, "step_boxes", "step_labels", 2)
    seeded.model.zero_grad()
    named, total = by_official_name(DetrLoss(91, DetrLossConfig()), seeded.outputs, targets)
    assert named.keys() == set(values["step_loss_names"].tolist())
    for name, value in zip(values["step_loss_names"].tolist(), values["step_loss_values"].tolist(), strict=True):
        assert named[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name  # theirs is fp32, through 12 layers
    total.backward()
    theirs = dict(zip(values["step_grad_names"].tolist(), values["step_grad_norms"].tolist(), strict=True))
    slots = {name: DETR.dialects()[0].slot(name, seeded.model.config) for name, _ in seeded.model.named_parameters()}
    ours = {slots[name].keys[0]: p.grad for name, p in seeded.model.named_parameters() if p.requires_grad}  # type: ignore[union-attr]
    assert ours.keys() == theirs.keys()
    for name, norm in theirs.items():
        # The first self-attention sees values of 0: its queries and keys have no gradient but theirs of rounding.
        assert float(ours[name].norm()) == pytest.approx(norm, rel=1e-3, abs=1e-5), name
    close(ours["class_embed.bias"], values["step_grad_class_embed_bias"], 1e-4)


@pytest.mark.parametrize("name", ["mixed", "empty", "crowd"])
def test_criterion(shared: Path, name: str) -> None:
    values = reference.values(shared, "criterion")
    logits, boxes = (torch.from_numpy(values[f"{name}_{part}"]).double() for part in ("logits", "boxes"))
    logits.requires_grad_()
    boxes.requires_grad_()
    outputs = DetrOutputs(logits[-1], boxes[-1], logits[:-1], boxes[:-1])
    targets = targets_of(values, f"{name}_tgt_boxes", f"{name}_tgt_labels", logits.shape[1])
    named, total = by_official_name(DetrLoss(11, DetrLossConfig()), outputs, targets)
    wanted = zip(values[f"{name}_loss_names"].tolist(), values[f"{name}_loss_values"].tolist(), strict=True)
    assert named == pytest.approx(dict(wanted), rel=1e-6, abs=1e-6)
    assert float(total.detach()) == pytest.approx(float(values[f"{name}_total"]), rel=1e-6)
    total.backward()
    assert logits.grad is not None
    assert boxes.grad is not None
    close(logits.grad, values[f"{name}_grad_logits"], 1e-6)
    close(boxes.grad, values[f"{name}_grad_boxes"], 1e-5)


def test_weights_of_the_loss_by_hand() -> None:
    """One query, one object: every part is known, so each weight shows by itself."""
    outputs = DetrOutputs(
        torch.zeros(1, 1, 3), torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]), *(torch.zeros(0, 1, 1, n) for n in (3, 4))
    )
    targets = SetTargets(torch.tensor([[1]]), torch.tensor([[[0.5, 0.5, 0.4, 0.2]]]))
    for field, part in (("class_weight", np.log(3)), ("box_weight", 0.2), ("giou_weight", 0.5)):
        weights = {"class_weight": 0.0, "box_weight": 0.0, "giou_weight": 0.0, field: 3.0}
        loss = DetrLoss(2, DetrLossConfig(**weights))  # type: ignore[arg-type]
        total = loss.weighted(loss.layers(outputs, targets, loss.match(outputs, targets), ALONE)[-1])
        assert float(total) == pytest.approx(3 * part, rel=1e-5)


def test_mistakes_in_the_loss_are_named() -> None:
    with pytest.raises(ConfigError, match="no_object_weight must be > 0"):
        DetrLossConfig(no_object_weight=0)
    with pytest.raises(ConfigError, match="nothing to match by"):
        DetrLossConfig(class_cost=0, box_cost=0, giou_cost=0)
    with pytest.raises(ConfigError, match="box_weight must be ≥ 0, got -1"):
        DetrLossConfig(box_weight=-1)
    outputs = DetrOutputs(torch.zeros(1, 1, 3), torch.full((1, 1, 4), 0.5), *(torch.zeros(0, 1, 1, n) for n in (3, 4)))
    with pytest.raises(InputError, match="class id 2 among the targets of a network with 2 classes"):
        DetrLoss(2, DetrLossConfig()).match(outputs, SetTargets(torch.tensor([[2]]), torch.full((1, 1, 4), 0.5)))


# ---- positions


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("sine_n128_normalized", {"features": 128}),
        ("sine_n8_normalized", {"features": 8}),
        ("sine_n8_raw", {"features": 8, "normalise": False}),
        ("sine_n6_T20_scale1", {"features": 6, "temperature": 20.0, "scale": 1.0}),
    ],
)
def test_sine_positions(shared: Path, key: str, settings: dict[str, Any]) -> None:
    values = reference.values(shared, "position")
    close(sine_positions(torch.from_numpy(values["mask"]), **settings), values[key], 1e-6)


def test_learned_positions(shared: Path) -> None:
    values, normal = reference.values(shared, "position"), reference.rule(shared).normal
    positions = LearnedPositions(8)
    found = positions((7, 9))
    assert found.shape == (1, 16, 7, 9)
    torch.testing.assert_close(found[0, :8, 3, 5], positions.columns[5])
    torch.testing.assert_close(found[0, 8:, 3, 5], positions.rows[3])
    with torch.no_grad():
        for name, parameter in (("row_embed.weight", positions.rows), ("col_embed.weight", positions.columns)):
            parameter.copy_(torch.from_numpy(normal(name, (50, 8)).astype(np.float32)))
    close(positions((7, 9)), values["learned_n8"][:1], 1e-6)
    with pytest.raises(InputError, match="51×9 cells"):
        positions((51, 9))


def test_a_cell_is_padding_where_its_nearest_pixel_is() -> None:
    """PyTorch's own interpolation of a mask, for every size up to the published one and both strides."""
    for side in range(32, 1340):
        for stride in (16, 32):
            cells = -(-side // stride)
            for valid in {1, stride, side // 2, side - 1, side}:
                mask = (torch.arange(side) >= valid).float().reshape(1, 1, side)
                wanted = F.interpolate(mask, size=cells)[0, 0].bool()
                found = padding_of_cells(torch.tensor([[valid, 1]]), (side, 1), (cells, 1))[0, :, 0]
                assert torch.equal(found, wanted), (side, cells, valid)


# ---- other forms


def test_the_demo_of_fifty_lines(shared: Path) -> None:
    values = reference.values(shared, "demo")
    shapes = {
        str(key): tuple(int(side) for side in str(shape).strip("()[]").split(",") if side.strip())
        for key, shape in zip(values["key_names"], values["key_shapes"], strict=True)
    }
    config = published_config("detr-demo")
    tensors = reference.seeded_tensors(shared, shapes)
    model = reference.with_weights(config, tensors, "detr-demo")
    batch, valid_hw = reference.images(shared, values["image_size"][None], "demo")
    with torch.no_grad():
        outputs, masked = model(batch), model(batch, valid_hw)
    close(outputs.class_logits, values["pred_logits_f64"], 1e-5)
    close(outputs.boxes_cxcywh, values["pred_boxes_f64"], 1e-6)
    torch.testing.assert_close(masked.class_logits, outputs.class_logits, rtol=0, atol=1e-10)
