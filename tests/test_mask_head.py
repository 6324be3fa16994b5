"""EfficientDet with masks: decoded for the boxes that are kept, exported with equal masks, learned where labelled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import randomise
from phidet import convert, create_model
from phidet.architectures.base import Processes
from phidet.architectures.batch import Batch
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_config import STRIDE, MaskConfig
from phidet.architectures.efficientdet.mask_decode import decode_masks
from phidet.architectures.efficientdet.mask_losses import MOST, mask_loss
from phidet.architectures.efficientdet.network import EfficientDet, MaskedOutputs
from phidet.architectures.efficientdet.published import detector_config
from phidet.architectures.efficientdet.targets import Targets
from phidet.architectures.prepared import Placement
from phidet.core.errors import CheckpointError, ConfigError, InputError
from phidet.core.structs import replace
from phidet.detections.masks import Masks
from phidet.detections.settings import PostprocessSettings
from phidet.export.onnx_file import build_onnx
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.heads import with_heads
from phidet.training.plan import plan_run
from phidet.weights import create
from phidet.weights.native import load_model, save_model
from test_train_run import write_squares

pytestmark = pytest.mark.usefixtures("unrendered")
ALONE = Processes(1, lambda value: value)
SIDE = 128


def config(masks: MaskConfig | None = MaskConfig(prototypes=8, channels=16)) -> ModelConfig:  # noqa: B008 - frozen
    base = detector_config("efficientdet-lite0", ("a", "b"))
    return replace(base, {"image_size_hw": (SIDE, SIDE), "masks": masks})


def network(seed: int = 0) -> EfficientDet:
    torch.manual_seed(seed)
    model = EFFICIENTDET.build(config()).eval()
    randomise(model, seed)
    return model


# ---- decoding


def smooth(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    coarse = torch.from_numpy(rng.normal(size=(1, count, 5, 5)).astype(np.float32))
    return F.interpolate(coarse, (side, side), mode="bicubic")[0].numpy()


@pytest.mark.parametrize("image_hw", [(128, 96), (301, 257), (40, 64)])
def test_decoded_masks_are_those_of_whole_images_cut_to_boxes(image_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    scale = min(SIDE / image_hw[0], SIDE / image_hw[1])
    prototypes, weights = smooth(rng, 6, SIDE // STRIDE), rng.normal(size=(7, 6)).astype(np.float32)
    corners = rng.random((7, 2)) * np.array(image_hw[::-1]) * 0.7
    boxes = np.concatenate([corners, corners + rng.random((7, 2)) * 30 + 1], 1).clip(0, [*image_hw[::-1]] * 2)
    found = decode_masks(prototypes, weights, boxes.astype(np.float32), scale, image_hw)
    # The plain way: all logits at the size of the image, by PyTorch's interpolation, then cut.
    logits = torch.einsum("nk,khw->nhw", torch.from_numpy(weights), torch.from_numpy(prototypes))
    seen = [side * scale / STRIDE for side in image_hw]
    rows, columns = (
        (torch.arange(n) + 0.5) * (s / n) * 2 / (SIDE / STRIDE) - 1 for n, s in zip(image_hw, seen, strict=True)
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None].float()
    whole = F.grid_sample(logits[None], grid, padding_mode="border", align_corners=False)[0]
    sure = whole.abs() > 1e-4
    for mask, box, expected, certain in zip(found.to_full(), boxes, whole > 0, sure, strict=True):
        inside = np.zeros(image_hw, bool)
        x1, y1, x2, y2 = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
        inside[y1:y2, x1:x2] = True
        assert np.array_equal(mask & certain.numpy(), expected.numpy() & inside & certain.numpy())
        assert not (mask & ~inside).any()


@pytest.mark.parametrize("nms", ["hard", "gaussian"])
def test_each_box_has_the_mask_of_its_anchor(nms: str) -> None:
    """Coefficients that say which anchor they are of give masks that say which box they belong to."""
    decoder = EFFICIENTDET.decoder(config(MaskConfig(prototypes=2)))
    rng, anchors = np.random.default_rng(0), config().num_anchors
    outputs = {
        "class_logits": rng.normal(-3, 2, (anchors, 2)).astype(np.float32),
        "box_deltas": np.zeros((anchors, 4), np.float32),
        "prototypes": np.stack([np.linspace(-1, 1, 32)[None].repeat(32, 0), np.ones((32, 32))]).astype(np.float32),
        "mask_coefficients": np.stack([np.ones(anchors), rng.uniform(-0.5, 0.5, anchors)], 1).astype(np.float32),
    }
    settings = PostprocessSettings(score=0.3, nms=nms, max_detections=20)  # type: ignore[arg-type]
    found = decoder(outputs, Placement(1.0, (SIDE, SIDE)), settings)
    assert len(found) == 20
    assert found.masks is not None
    known = {tuple(np.clip(box, 0, SIDE).round(3)): i for i, box in enumerate(decoder.anchors_xyxy)}  # type: ignore[attr-defined]
    for box, mask in zip(found.boxes_xyxy, found.masks.to_full(), strict=True):
        shift = outputs["mask_coefficients"][known[tuple(box.round(3))], 1]
        edge = (-shift + 1) / 2 * 31 * 4 + 2  # where x + shift is 0, in pixels
        columns = np.flatnonzero(mask.any(0))
        wanted = [x for x in range(int(np.floor(box[0])), int(np.ceil(box[2]))) if x + 0.5 > edge]
        assert abs(len(columns) - len(wanted)) <= 1


def test_outputs_that_are_no_numbers_are_refused() -> None:
    decoder = EFFICIENTDET.decoder(config())
    outputs = {name: np.zeros(shape, np.float32) for name, shape in EFFICIENTDET.output_shapes(config()).items()}
    decoder(outputs, Placement(1.0, (SIDE, SIDE)), PostprocessSettings())
    outputs["prototypes"] = outputs["prototypes"] * np.nan
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        decoder(outputs, Placement(1.0, (SIDE, SIDE)), PostprocessSettings())


# ---- exports


@pytest.mark.parametrize(("half", "least"), [(False, 0.999), (True, 0.99)])
def test_exported_masks_are_pytorchs(half: bool, least: float) -> None:
    model = network()
    coarse = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32))
    image = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    with torch.no_grad():  # about 0, so that masks have edges
        assert model.prototypes is not None
        model.prototypes.predict.bias -= model(image).prototypes.mean((0, 2, 3))  # type: ignore[operator]
    session = onnxruntime.InferenceSession(build_onnx(model, half).SerializeToString())
    decoder, settings = EFFICIENTDET.decoder(model.config), PostprocessSettings(score=0.0, max_detections=30)
    with torch.no_grad():
        named = EFFICIENTDET.named_outputs(model(image))
        folded = EFFICIENTDET.named_outputs(model.optimize()(image))
    names = [output.name for output in session.get_outputs()]
    exported = dict(zip(names, session.run(None, {"images": image.numpy()}), strict=True))
    assert set(EFFICIENTDET.output_shapes(model.config)) <= set(names)
    named["box_deltas"] = torch.zeros_like(named["box_deltas"])  # random ones make boxes of no size
    ours = decoder({name: of[0].numpy() for name, of in named.items()}, Placement(1.0, (SIDE, SIDE)), settings)
    for others in (folded, exported):
        # The same anchors on both sides, so that masks are compared and not the choice of boxes.
        both = {name: np.asarray(of[0]) for name, of in others.items()}
        both |= {name: named[name][0].numpy() for name in ("class_logits", "box_deltas")}
        both.pop("best_logits", None)
        theirs = decoder(both, Placement(1.0, (SIDE, SIDE)), settings)
        assert ours.masks is not None
        assert theirs.masks is not None
        some = ours.masks.areas > 50
        assert some.sum() > 5
        ious = np.diag(ours.masks.iou(theirs.masks))[some]
        assert ious.mean() >= least


def test_a_network_with_masks_is_saved_with_them_and_one_without_as_before(tmp_path: Path) -> None:
    model = network()
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").eval()
    assert again.config == model.config
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        for ours, theirs in zip(model(image), again(image), strict=True):
            assert torch.equal(ours, theirs)
    assert isinstance(model(image), MaskedOutputs)
    plain = EFFICIENTDET.build(config(None)).eval()
    assert plain(image)._fields == ("class_logits", "box_deltas")
    assert "masks" not in dict(EFFICIENTDET.summary(config(None)))
    assert EFFICIENTDET.start_config(config(), config(None)) == config()  # masks are added to a detector
    assert EFFICIENTDET.start_config(config(None), config()) == config()  # and kept where a file has them


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="masks need an input whose sides are multiples of 4"):
        replace(config(), {"image_size_hw": (130, 130)})
    with pytest.raises(ConfigError, match="prototypes must be ≥ 1, got 0"):
        MaskConfig(prototypes=0)
    assert with_heads(config(None), ["masks"], ()).masks == MaskConfig()
    assert with_heads(config(), ["masks"], ()) == config()
    assert with_heads(config(None), [], ["b"]) == config(None)
    assert Request(data="d").masks is False
    assert RunSettings(out=Path("r"))


# ---- the loss


class Case:
    """Two images of 16 cells a side; the first has two objects, of which one has no labelled mask."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.coefficients = torch.randn(2, 6, 3, generator=g, dtype=torch.float64).float().requires_grad_()
        self.prototypes = torch.randn(2, 3, 16, 16, generator=g).requires_grad_()
        ids = torch.tensor([[0, -1, 1, 1, -1, -1], [-1, -1, -1, -1, 0, -1]])
        owner = torch.tensor([[0, -1, 1, 1, -1, -1], [-1, -1, -1, -1, 0, -1]])
        self.targets = Targets(ids, torch.zeros(2, 6, 4), owner, (ids >= 0).sum(1))
        self.masks = torch.zeros(2, 2, 16, 16, dtype=torch.uint8)
        self.masks[0, 0] = 255
        self.masks[0, 1, 3:9, 4:10] = 1
        self.masks[1, 0, 1:5, 2:4] = 1
        self.boxes = torch.tensor([[[0.0, 0, 20, 20], [16, 12, 40, 36]], [[8, 4, 16, 20], [0, 0, 0, 0]]])

    def loss(self) -> tuple[Tensor, Tensor]:
        return mask_loss(self.coefficients, self.prototypes, self.targets, self.masks, self.boxes)


def test_the_mask_loss_by_hand() -> None:
    case = Case()
    total, count = case.loss()
    expected = 0.0
    for image, anchor, owner, (x1, y1, x2, y2) in (
        (0, 2, 1, (4, 3, 10, 9)),
        (0, 3, 1, (4, 3, 10, 9)),
        (1, 4, 0, (2, 1, 4, 5)),
    ):
        logits = torch.einsum("k,khw->hw", case.coefficients[image, anchor], case.prototypes[image])[y1:y2, x1:x2]
        wanted = case.masks[image, owner, y1:y2, x1:x2].float()
        p = torch.sigmoid(logits)
        entropy = -(wanted * torch.log(p) + (1 - wanted) * torch.log(1 - p)).mean()
        dice = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
        expected += (entropy + dice).item()
    assert float(count) == 3
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_only_labelled_masks_and_pixels_inside_their_boxes_are_learned() -> None:
    case = Case()
    case.loss()[0].backward()
    gradient = case.coefficients.grad
    assert gradient is not None
    learned = gradient.abs().sum(2) > 0
    assert learned.nonzero().tolist() == [[0, 2], [0, 3], [1, 4]]
    of_maps = case.prototypes.grad
    assert of_maps is not None
    touched = (of_maps[0].abs().sum(0) > 0).nonzero()
    assert touched.min(0).values.tolist() == [3, 4]
    assert touched.max(0).values.tolist() == [8, 9]
    changed = Case()
    changed.masks[0, 1, 12:, 12:] = 1
    assert torch.equal(changed.loss()[0], case.loss()[0])


def test_without_a_labelled_mask_the_loss_is_zero_and_differentiable() -> None:
    case = Case()
    case.masks[:] = 255
    total, count = case.loss()
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)
    assert case.coefficients.grad is not None
    assert not case.coefficients.grad.any()


def test_not_more_masks_are_learned_in_a_step_than_memory_is_planned_for() -> None:
    case, anchors = Case(), 5 * MOST
    coefficients = torch.randn(2, anchors, 3)
    ids = torch.zeros(2, anchors, dtype=torch.int64)
    owner = torch.ones(2, anchors, dtype=torch.int64)
    owner[1] = 0
    targets = Targets(ids, torch.zeros(2, anchors, 4), owner, (ids >= 0).sum(1))
    _, count = mask_loss(coefficients, case.prototypes, targets, case.masks, case.boxes)
    assert float(count) == 2 * MOST


def test_masks_teach_the_whole_network_and_an_image_without_them_only_boxes() -> None:
    torch.manual_seed(0)
    model = EFFICIENTDET.build(config()).train()
    settings = dict(EFFICIENTDET.loss_settings)
    loss = EFFICIENTDET.loss(config(), settings)
    pixels, valid = torch.randint(0, 255, (2, 3, SIDE, SIDE)), torch.full((2, 2), SIDE)
    boxes = torch.tensor([[[20.0, 20, 90, 100]], [[10, 30, 60, 90]]])
    masks = torch.zeros(2, 1, SIDE // 4, SIDE // 4, dtype=torch.uint8)
    masks[0, 0, 6:20, 6:20] = 1
    masks[1] = 255
    batch = Batch(pixels, valid, boxes, torch.zeros(2, 1, dtype=torch.int64), masks=masks)
    outputs = model(pixels.float() / 128 - 1)
    losses = loss(outputs, batch, ALONE)
    assert losses["loss"].item() == pytest.approx(
        (losses["class_loss"] + settings["box_weight"] * losses["box_loss"] + losses["mask_loss"]).item(), rel=1e-5
    )
    losses["mask_loss"].backward(retain_graph=True)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {
        *("backbone", "feature_network", "mask_head", "prototypes")
    }
    # Twice the processes halve the normaliser: the mean of their gradients is then that of the whole batch.
    halves = loss(outputs, batch, Processes(2, lambda value: 2 * value))
    assert halves["mask_loss"].item() == pytest.approx(losses["mask_loss"].item(), rel=1e-6)
    assert "mask_loss" not in loss(outputs, batch._replace(masks=None), ALONE)


@pytest.mark.slow
def test_a_disc_is_learned_to_its_edge() -> None:
    """Overfitted to two discs, a tiny network's masks have an IoU of 0.85 with them."""
    torch.manual_seed(0)
    model = EFFICIENTDET.build(config()).train()
    loss = EFFICIENTDET.loss(config(), EFFICIENTDET.loss_settings)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    discs = torch.stack([(columns - x) ** 2 + (rows - y) ** 2 < r * r for x, y, r in ((45, 50, 28), (80, 70, 36))])
    images = torch.where(discs[:, None], 2.0, -1.0).repeat(1, 3, 1, 1)
    boxes = torch.tensor([[[17.0, 22, 74, 79]], [[44, 34, 117, 107]]])
    masks = discs[:, None, 2::4, 2::4].to(torch.uint8)
    ids = torch.zeros(2, 1, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 3, SIDE, SIDE), torch.full((2, 2), SIDE), boxes, ids, masks=masks)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss(model(images), batch, ALONE)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model(images)  # in training mode: two images' statistics are their own
    decoder = EFFICIENTDET.decoder(config())
    for i in range(2):
        named = {name: of[i].numpy() for name, of in EFFICIENTDET.named_outputs(outputs).items()}
        found = decoder(named, Placement(1.0, (SIDE, SIDE)), PostprocessSettings(score=0.0, max_detections=1))
        assert found.masks is not None
        assert found.masks.iou(Masks.from_full(discs[i : i + 1].numpy()))[0, 0] > 0.85


def test_masks_have_no_place_in_files_of_others(tmp_path: Path) -> None:
    save_model(network(), tmp_path / "masks.safetensors")
    for dialect in ("effdet", "zylo117"):
        with pytest.raises(CheckpointError, match=f"{dialect} format has no key for 'mask_head"):
            convert(tmp_path / "masks.safetensors", tmp_path / f"{dialect}.pth", to=dialect)


@pytest.mark.parametrize("dialect", ["phidet", "effdet"])
def test_masks_and_pixels_are_added_to_weights_of_coco(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything of the detector is taken from the file that stands in for the download; the new heads start fresh."""
    torch.manual_seed(0)
    held = create_model("efficientdet-lite0")
    randomise(held)
    path = tmp_path / "lite0.safetensors"
    save_model(held, path)
    if dialect == "effdet":
        convert(path, tmp_path / "lite0.pth", to="effdet")
        path = tmp_path / "lite0.pth"
    monkeypatch.setattr(create, "fetch", lambda file: path)
    write_squares(tmp_path / "data", 2)
    request = Request(
        data=str(tmp_path / "data"), pretrained="coco", masks=True, semantic=True, image_size=128, val_split="none"
    )
    with pytest.raises(InputError, match=r"no object of 'train' has a mask, which --masks and --semantic learn from"):
        plan_run(request, RunSettings(out=tmp_path / "run", seed=0))
    outline_squares(tmp_path / "data")
    plan = plan_run(request, RunSettings(out=tmp_path / "run", seed=0))
    ours, theirs = plan.model.state_dict(), held.state_dict()
    assert plan.model.config.masks == MaskConfig()
    assert plan.model.config.semantic is not None
    fresh = {name for name in ours if name not in theirs}
    assert {name.partition(".")[0] for name in fresh} == {"mask_head", "prototypes", "semantic"}
    same = [name for name in theirs if not name.startswith("class_head.predict.pointwise")]
    assert all(torch.equal(ours[name], theirs[name]) for name in same)


def outline_squares(data: Path) -> None:
    """Gives the squares of :func:`write_squares` their outlines as masks."""
    file = next(data.rglob("*.json"))
    content = json.loads(file.read_text())
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    file.write_text(json.dumps(content))


def test_a_network_with_masks_goes_on_without_any_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(EFFICIENTDET.build(config()), tmp_path / "masked.safetensors")
    write_squares(tmp_path / "data", 2)
    request = Request(data=str(tmp_path / "data"), model=str(tmp_path / "masked.safetensors"), val_split="none")
    said = "no object of train has a mask: what finds masks is not learned and not measured"
    plan_run(request, RunSettings(out=tmp_path / "run", seed=0))
    assert said in caplog.messages
    caplog.clear()
    outline_squares(tmp_path / "data")
    plan_run(request, RunSettings(out=tmp_path / "run", seed=0))
    assert said not in caplog.messages
