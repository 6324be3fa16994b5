"""Laws of the set predictor: what its attention reads, what its queries may see, what its loss asks for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.batch import Batch
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.architectures.prepared import Placement
from phidet.architectures.processes import Processes
from phidet.architectures.registry import architecture_of
from phidet.architectures.setdet.architecture import SETDET
from phidet.architectures.setdet.attention import SampledAttention, SelfAttention, sample_maps
from phidet.architectures.setdet.boxes import LARGEST_LOGIT, cell_boxes, moved, to_logits
from phidet.architectures.setdet.config import DecoderConfig, SetDetConfig
from phidet.architectures.setdet.decode import SetDecoding
from phidet.architectures.setdet.decoder import DecoderLayer, SetDecoder
from phidet.architectures.setdet.denoising import Noise, isolation, noisy_queries
from phidet.architectures.setdet.losses import denoised, input_targets, quality_loss
from phidet.architectures.setdet.network import SetDet
from phidet.architectures.setdet.published import FAMILIES, SETDET_NAMES, named_config, scaled_config
from phidet.architectures.sets.targets import SetTargets
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.detections.boxes import cxcywh_to_xyxy, elementwise_iou
from phidet.detections.settings import PostprocessSettings
from phidet.images.prepare import LITE

ALONE = Processes(1, lambda total: total)
DECODER = DecoderConfig(queries=12, width=32, layers=2, heads=4, points=2)
TINY = SetDetConfig(
    name="tiny-set",
    backbone=BackboneConfig(architecture="efficientnet-lite", width=0.25, depth=0.3),
    encoder_layers=1,
    feature_network=FeatureNetworkConfig(channels=16, repeats=1, fusion="sum", max_level=5),
    decoder=DECODER,
    activation="relu6",
    image_size_hw=(96, 128),
    class_names=("a", "b", "c"),
    preprocess=LITE,
)


def lively(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights everywhere: fresh ones have boxes that stay and attention that looks straight ahead."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * max(parameter.shape[-1], 4) ** -0.5)


def some_targets() -> SetTargets:
    """Two objects in the first image, none in the second, three in the third."""
    ids = torch.tensor([[0, 2, -1], [-1, -1, -1], [1, 1, 0]])
    generator = torch.Generator().manual_seed(1)
    centres = 0.3 + 0.4 * torch.rand(3, 3, 2, generator=generator)
    sides = 0.1 + 0.3 * torch.rand(3, 3, 2, generator=generator)
    return SetTargets(ids, torch.cat((centres, sides), 2) * (ids >= 0)[..., None])


def some_batch() -> Batch:
    height, width = TINY.image_size_hw
    targets = some_targets()
    boxes = cxcywh_to_xyxy(targets.boxes_cxcywh) * torch.tensor([width, height, width, height])
    pixels = torch.randint(256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Batch(pixels, torch.tensor([[height, width]] * 3), boxes, targets.class_ids)


# --- the law of φ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "sizes"),
    [  # 64 · 1.35^φ by eights, 128 · 1.35^φ by 32, 3 + φ, 3 + ⌊φ/3⌋, 100 · 1.25^φ by tens, 512 + 128 · φ
        (-2, (32, 64, 1, 2, 60, 256)),  # 35.1, 70.2, 1, 2, 64
        (-1, (48, 96, 2, 2, 80, 384)),  # 47.4, 94.8
        (0, (64, 128, 3, 3, 100, 512)),
        (1, (88, 160, 4, 3, 130, 640)),  # 86.4, 172.8 (5.4 · 32), 125: halves go up
        (2, (120, 224, 5, 3, 160, 768)),  # 116.6, 233.3, 156.25
        (3, (160, 320, 6, 4, 200, 896)),  # 157.5, 314.9, 195.3
        (7, (520, 1056, 10, 5, 480, 1408)),  # 523.1, 1046.2, 476.8
    ],
)
def test_the_law(phi: float, sizes: tuple[int, ...]) -> None:
    config = scaled_config(phi, FAMILIES["setdet"])
    network, decoder = config.feature_network, config.decoder
    found = network.channels, decoder.width, network.repeats, decoder.layers, decoder.queries
    assert (*found, config.image_size_hw[0]) == sizes


def test_every_size_grows_with_phi() -> None:
    sizes = []
    for step in range(-20, 101):
        config = scaled_config(step / 10, FAMILIES["setdet-lite"])
        network, decoder = config.feature_network, config.decoder
        sizes.append((network.channels, network.repeats, decoder.width, decoder.layers, decoder.queries))
    assert all(a <= b for before, after in pairwise(sizes) for a, b in zip(before, after, strict=True))


def test_names_are_published_backbones_with_the_law_behind() -> None:
    for name in SETDET_NAMES:
        phi = int(name[-1])
        family = "setdet-lite" if "lite" in name else "setdet"
        named, law = named_config(name), scaled_config(phi, FAMILIES[family])
        assert replace(named, {"name": law.name, "backbone": law.backbone}) == law
        assert SETDET.pretrained_file(named, "backbone", name) is not None
    assert named_config("setdet-lite0").image_size_hw == (320, 320)
    with pytest.raises(UnknownNameError, match="Did you mean setdet-lite0"):
        named_config("setdet-lit0")


def test_configs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of its 4 heads"):
        replace(DECODER, {"width": 30})
    with pytest.raises(ConfigError, match=r"must have level 5.*got 3\.\.4"):
        replace(TINY, {"feature_network": FeatureNetworkConfig(channels=16, repeats=1, max_level=4)})
    with pytest.raises(ConfigError, match="smaller than the coarsest stride, 32"):
        replace(TINY, {"image_size_hw": (31, 320)})


# --- attention --------------------------------------------------------------------------------------------------------


def naive_sample(maps: list[Tensor], points_xy: Tensor, weights: Tensor) -> Tensor:
    """The definition, a point at a time: bilinear between the four cells around it, 0 outside."""
    batch, queries, heads, levels, points = weights.shape
    each = maps[0].shape[1] // heads
    total = torch.zeros(batch, queries, heads, each, dtype=torch.float64)
    for b, q, h, level, p in np.ndindex(batch, queries, heads, levels, points):
        grid = maps[level][b, h * each : (h + 1) * each]
        x = float(points_xy[b, q, h, level, p, 0]) * grid.shape[2] - 0.5
        y = float(points_xy[b, q, h, level, p, 1]) * grid.shape[1] - 0.5
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                if 0 <= column < grid.shape[2] and 0 <= row < grid.shape[1]:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * float(weights[b, q, h, level, p])
                    total[b, q, h] += share * grid[:, row, column]
    return total.flatten(2)


def test_sampled_values_are_those_of_a_loop_over_points() -> None:
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 6, height, width, generator=g, dtype=torch.float64) for height, width in ((5, 7), (3, 4))]
    points = torch.rand(2, 4, 3, 2, 3, 2, generator=g, dtype=torch.float64) * 1.4 - 0.2  # also outside
    weights = torch.rand(2, 4, 3, 2, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(sample_maps(maps, points, weights), naive_sample(maps, points, weights))


def test_a_fresh_head_looks_from_the_centre_to_the_border_of_its_box() -> None:
    attention = SampledAttention(16, heads=4, levels=2, points=2)
    offsets = attention.offsets.bias.view(4, 2, 2, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(offsets[:, 0, 1], directions, atol=1e-6, rtol=0)  # the last point: the border
    torch.testing.assert_close(offsets[:, 1, 0], directions / 2, atol=1e-6, rtol=0)


def test_self_attention_is_pytorchs() -> None:
    ours = SelfAttention(24, heads=3).double()
    lively(ours)
    theirs = torch.nn.MultiheadAttention(24, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((ours.query_key.weight, ours.value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.query_key.bias, ours.value.bias)))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, positions = torch.randn(2, 2, 7, 24, dtype=torch.float64)
    allowed = torch.rand(7, 7) < 0.5
    allowed |= torch.eye(7, dtype=torch.bool)
    expected = theirs(x + positions, x + positions, x, attn_mask=~allowed, need_weights=False)[0]
    torch.testing.assert_close(ours(x, positions, allowed), expected)


def test_the_order_of_queries_is_the_order_of_answers_and_nothing_else() -> None:
    layer = DecoderLayer(DECODER, levels=2).double()
    lively(layer)
    g = torch.Generator().manual_seed(0)
    x, positions = torch.randn(2, 2, 9, 32, generator=g, dtype=torch.float64)
    boxes = torch.rand(2, 9, 4, generator=g, dtype=torch.float64)
    maps = [torch.randn(2, 32, side, side, generator=g, dtype=torch.float64) for side in (6, 3)]
    order = torch.randperm(9, generator=g)
    straight = layer(x, positions, boxes, maps, None)
    permuted = layer(x[:, order], positions[:, order], boxes[:, order], maps, None)
    torch.testing.assert_close(permuted, straight[:, order])


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_logits_and_boxes_go_there_and_back() -> None:
    boxes = torch.rand(100, 4, dtype=torch.float64) * 0.998 + 0.001
    torch.testing.assert_close(to_logits(boxes).sigmoid(), boxes)
    torch.testing.assert_close(moved(to_logits(boxes), torch.zeros(100, 4)), to_logits(boxes))
    assert to_logits(torch.tensor([0.0, 1.0, -1.0, 2.0])).tolist() == [-LARGEST_LOGIT, LARGEST_LOGIT] * 2
    assert moved(torch.tensor([11.0]), torch.tensor([50.0])).item() == LARGEST_LOGIT


def test_cells_start_from_boxes_at_their_centres() -> None:
    boxes = cell_boxes([(2, 4), (1, 2)], torch.zeros(()))
    assert boxes.shape == (10, 4)
    torch.testing.assert_close(boxes[5], torch.tensor([0.375, 0.75, 0.05, 0.05]))  # second row, second column
    torch.testing.assert_close(boxes[9], torch.tensor([0.75, 0.5, 0.1, 0.1]))


# --- denoising --------------------------------------------------------------------------------------------------------


def test_near_queries_can_be_put_right_and_far_ones_are_beside_their_object() -> None:
    torch.manual_seed(0)
    targets = some_targets()
    made = noisy_queries(targets, 3, Noise(queries=60, label=0.0, box=0.4))
    assert made is not None
    assert (made.groups, made.objects) == (20, 3)
    assert made.class_ids.shape == (3, 120)
    assert (made.class_ids[1] == 3).all()  # an image without objects has padding only
    near = torch.arange(120) % 6 < 3
    objects = targets.boxes_cxcywh.repeat(1, 40, 1)
    real = targets.class_ids.repeat(1, 40) >= 0
    shift = (cxcywh_to_xyxy(made.boxes_cxcywh) - cxcywh_to_xyxy(objects)).abs() / objects[..., 2:].repeat(1, 1, 2) * 2
    assert float(shift[:, near][real[:, near]].max()) <= 0.4 + 1e-5
    inside = (cxcywh_to_xyxy(made.boxes_cxcywh)[:, ~near] % 1 != 0).all(-1) & real[:, ~near]  # not clipped
    assert float(shift[:, ~near][inside].min()) >= 0.4 - 1e-5
    assert (made.class_ids[:, near][real[:, near]] == targets.class_ids.repeat(1, 20)[real[:, near]]).all()


def test_labels_are_replaced_as_often_as_is_asked_for() -> None:
    torch.manual_seed(0)
    targets = SetTargets(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1, 4), 0.5))
    made = noisy_queries(targets, 4, Noise(queries=20_000, label=0.5))
    assert made is not None
    wrong = float((made.class_ids != 0).float().mean())
    assert abs(wrong - 0.5 * 3 / 4) < 0.01  # a random class is the right one in a quarter
    assert noisy_queries(targets, 4, Noise(queries=0)) is None
    assert noisy_queries(SetTargets(targets.class_ids[:, :0], targets.boxes_cxcywh[:, :0]), 4, Noise()) is None


def test_groups_see_themselves_and_what_finds_objects_sees_none_of_them() -> None:
    torch.manual_seed(0)
    decoder = SetDecoder(DECODER, 2, 3).double()
    lively(decoder)
    targets = some_targets()
    made = noisy_queries(targets, 3, Noise(queries=9))
    assert made is not None
    seen = isolation(made, queries=2)
    size = 2 * made.objects
    for row in range(made.groups * size):
        expected = {*range(row // size * size, (row // size + 1) * size), made.groups * size, made.groups * size + 1}
        assert set(seen[row].nonzero().flatten().tolist()) == expected
    assert set(seen[-1].nonzero().flatten().tolist()) == {made.groups * size, made.groups * size + 1}

    # So what is found does not depend on the noise, nor on whether there is any.
    maps = [torch.randn(3, 32, side, side, dtype=torch.float64) for side in (6, 3)]
    plain = decoder(maps)
    for noise in (Noise(queries=30), Noise(queries=6, box=0.1), Noise(queries=0)):
        refined = decoder.refine(maps, targets, noise)
        torch.testing.assert_close(refined.layers.class_logits[-1], plain.class_logits)
        torch.testing.assert_close(refined.layers.boxes_cxcywh[-1], plain.boxes_cxcywh)


def test_what_denoising_should_answer_is_what_it_was_made_from() -> None:
    torch.manual_seed(0)
    targets = some_targets()
    made = noisy_queries(targets, 3, Noise(queries=12, label=0.0, box=0.2))
    assert made is not None
    matched = denoised(targets, made.groups)
    assert len(matched.images) == 5 * made.groups
    found = made.boxes_cxcywh[matched.images, matched.queries]
    wanted = targets.boxes_cxcywh[matched.images, matched.objects]
    iou = elementwise_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted), "iou")
    assert float(iou.min()) > 0.6  # sides move by a tenth of the box at most
    assert (made.class_ids[matched.images, matched.queries] == targets.class_ids[matched.images, matched.objects]).all()


# --- loss -------------------------------------------------------------------------------------------------------------


def test_quality_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    qualities = torch.tensor([[0.8, 0.0], [0.0, 0.0]], dtype=torch.float64)
    p = torch.sigmoid(logits)
    wanted = 0.8**1.5
    expected = -(wanted * p[0, 0].log() + (1 - wanted) * (1 - p[0, 0]).log())
    for other in (p[0, 1], p[1, 0], p[1, 1]):
        expected = expected - other**1.5 * (1 - other).log()
    torch.testing.assert_close(quality_loss(logits, qualities, 1.5), expected)


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    model = SetDet(TINY).train()
    lively(model.decoder)
    outputs = SETDET.training_outputs(model, torch.randn(3, 3, *TINY.image_size_hw), some_batch(), SETDET.loss_settings)
    SETDET.loss(TINY, SETDET.loss_settings)(outputs, some_batch(), ALONE)["loss"].backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_weights_that_a_batch_does_not_use_have_a_gradient_all_the_same() -> None:
    # Otherwise several processes, one of which has no objects, would wait for each other.
    torch.manual_seed(0)
    model = SetDet(TINY).train()
    batch = some_batch()
    empty = batch._replace(boxes_xyxy=batch.boxes_xyxy[:, :0], class_ids=batch.class_ids[:, :0])
    settings = {**SETDET.loss_settings, "dense_weight": 0.0}
    outputs = SETDET.training_outputs(model, torch.randn(3, 3, *TINY.image_size_hw), empty, settings)
    SETDET.loss(TINY, settings)(outputs, empty, ALONE)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_images_without_objects_teach_that_there_is_nothing() -> None:
    torch.manual_seed(0)
    model = SetDet(TINY).train()
    batch = some_batch()
    empty = batch._replace(boxes_xyxy=batch.boxes_xyxy[:, :0], class_ids=batch.class_ids[:, :0])
    outputs = SETDET.training_outputs(model, torch.randn(3, 3, *TINY.image_size_hw), empty, SETDET.loss_settings)
    losses = SETDET.loss(TINY, SETDET.loss_settings)(outputs, empty, ALONE)
    losses["loss"].backward()
    assert losses["l1_loss"].item() == losses["giou_loss"].item() == 0
    bias = model.decoder.classes[-1].bias.grad
    assert bias is not None
    assert (bias > 0).all()  # every class becomes less probable


def test_targets_are_in_shares_of_the_padded_input() -> None:
    batch = some_batch()._replace(valid_hw=torch.tensor([[48, 64]] * 3))
    torch.testing.assert_close(input_targets(batch).boxes_cxcywh, some_targets().boxes_cxcywh)


def test_settings_out_of_range_are_refused() -> None:
    for settings, message in (
        ({"dense_weight": -1.0}, "dense_weight must be ≥ 0"),
        ({"quality_power": 0.0}, "quality_power must be > 0"),
        ({"label_noise": 1.5}, r"label_noise must be in \[0, 1\]"),
        ({"denoising": "many"}, "loss of setdet"),
    ):
        with pytest.raises(ConfigError, match=message):
            SETDET.loss(TINY, {**SETDET.loss_settings, **settings})


# --- decoding ---------------------------------------------------------------------------------------------------------


def answers() -> dict[str, np.ndarray]:
    """Three queries: the first is sure of b and inclined to a, the second of c, the third of nothing."""
    logits = np.array([[1.0, 3.0, -9], [-9, -9, 2.0], [-5, -5, -5]], np.float32)
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]], np.float32)
    return {"class_logits": logits, "boxes_cxcywh": boxes}


def test_answers_become_boxes_of_the_original_image() -> None:
    # The input is 96×128; an image of 40×60 was doubled, so that it takes up 80×120 of it.
    found = SetDecoding(TINY)(answers(), Placement(2.0, (40, 60)), PostprocessSettings(score=0.5))
    assert found.class_ids.tolist() == [1, 2]
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-3.0, -2.0])), rtol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, [[16, 12, 48, 36], [0, 0, 32, 24]], rtol=1e-6)


def test_a_query_speaks_for_one_class_unless_several_are_asked_for() -> None:
    decode, placement = SetDecoding(TINY), Placement(1.0, TINY.image_size_hw)
    every = decode(answers(), placement, PostprocessSettings(score=0.001, multi_class=True, max_detections=4))
    assert every.class_ids.tolist() == [1, 2, 0, 0]
    assert (np.diff(every.scores) <= 0).all()
    only = decode(answers(), placement, PostprocessSettings(score=0.1, classes=("a",)))
    assert only.class_ids.tolist() == [0]
    np.testing.assert_allclose(only.scores, [1 / (1 + np.exp(-1.0))], rtol=1e-6)
    # Nothing is suppressed: two queries at one place are two answers.
    twice = {name: np.concatenate([of, of]) for name, of in answers().items()}
    assert len(decode(twice, placement, PostprocessSettings(score=0.5))) == 4


def test_a_broken_network_does_not_seem_to_find_nothing() -> None:
    broken = answers()
    broken["class_logits"][2, 0] = np.nan
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        SetDecoding(TINY)(broken, Placement(1.0, (96, 128)), PostprocessSettings())


def test_its_config_finds_it() -> None:
    assert architecture_of(TINY) is SETDET
