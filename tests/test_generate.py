"""Training of a generator: schedule, two networks in turns, adaptive augmentation; measures of made images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from doctor_data import coco
from interrupted import interrupted_after, same_weights
from phidet import load_model
from phidet.architectures.registry import architecture_named
from phidet.architectures.stylegan.published import stylegan_config
from phidet.cli.main import main
from phidet.core.errors import ConfigError, DownloadError, InputError
from phidet.data.crops import crops_of, cut_out, read_crops, whole_images, window_of
from phidet.data.layouts import open_data, read_images
from phidet.data.objects import read_objects
from phidet.evaluation.generation import (
    conditional_entropy,
    frechet_distance,
    linear_classifier,
    nearest_real,
    path_length,
    precision_recall,
    separability,
    slerp,
)
from phidet.inference.generator import open_generator
from phidet.inference.measure_generator import Settings
from phidet.training.augmentation.adaptive import AdaptiveProbability, change_images, draw_colour, draw_geometry
from phidet.training.generate_loading import ShownImages
from phidet.training.generate_task import GenerateTask
from phidet.training.recipe import SMALL, replace

pytestmark = pytest.mark.usefixtures("unrendered")
NAMES = ["disc", "square"]


def scene(seed: int) -> tuple[npt.NDArray[np.uint8], list[tuple[str, list[float]]]]:
    """A red disc and a blue square on grey noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(150, 170, (64, 96, 3), np.uint8)
    y, x = np.mgrid[:64, :96]
    cx, cy, r = int(rng.integers(14, 34)), int(rng.integers(14, 50)), int(rng.integers(8, 13))
    image[(x - cx) ** 2 + (y - cy) ** 2 <= r * r] = (200, 30, 30)
    left, top, side = int(rng.integers(52, 70)), int(rng.integers(4, 36)), int(rng.integers(14, 24))
    image[top : top + side, left : left + side] = (30, 30, 200)
    boxes = [("disc", [cx - r, cy - r, 2 * r + 1, 2 * r + 1]), ("square", [left, top, side, side])]
    return image, [(name, [float(v) for v in box]) for name, box in boxes]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return coco(tmp_path / "data", {"train": [scene(i) for i in range(12)]}, NAMES)


def test_crops_hold_the_object_in_their_middle(data: Path) -> None:
    dataset = open_data(data).read("train")
    crops = crops_of(dataset)
    assert len(crops) == 24
    pixels = read_crops(dataset, crops, 40, context=1.25)
    for crop, made in zip(crops, pixels, strict=True):
        colour = (200, 30, 30) if crop.class_id == 0 else (30, 30, 200)
        # The object fills 1 / 1.25 = 32 of 40 pixels: its middle lines are coloured from 4 to 36, the rest is ground.
        middle = np.abs(made[20].astype(int) - colour).sum(-1) < 60
        assert middle[6:34].all()
        assert not middle[:3].any()
        assert not middle[37:].any()


def test_a_window_beyond_the_image_is_mirrored() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    whole = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    for x, y in ((-4, -4), (26, 0), (18, 16), (-8, 8), (3, 5)):
        crop = cut_out(image, (x, y, x + 12, y + 12), 12)
        np.testing.assert_array_equal(crop, whole[y + 8 : y + 20, x + 8 : x + 20])
    assert window_of(np.array([0, 0, 30, 20], np.float32), (20, 30), 1.5) == (5, 0, 25, 20)
    assert window_of(np.array([10, 4, 20, 12], np.float32), (20, 30), 1.5) == (7.5, 2.0, 22.5, 14.0)


def test_the_sampler_shows_what_the_schedule_says() -> None:
    config = stylegan_config("stylegan-32-small")
    loss = {"phase_images": 64, "first_resolution": 8, "batches": "one-device", "epoch_images": 300}
    architecture = architecture_named("stylegan")
    adversary = architecture.adversarial(config, {**architecture.loss_settings, **loss})
    recipe = replace(SMALL, {"batch_size": 16})
    sampler = ShownImages(50, adversary, recipe, 3)
    shown, all_keys = 0, []
    for epoch in range(3):
        sampler.epoch = epoch
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for keys in batches:
            phase = adversary.phase(shown, 16, 0.001)
            assert len(keys) == phase.batch_size
            shown += len(keys)
            all_keys += keys
    assert sampler.shown_before(3) == shown
    # Passes follow each other, each with every crop once.
    for number in range(shown // 50):
        assert sorted(i for n, i in all_keys if n == number) == list(range(50))
    # Two processes take turns within the same batches, whatever epoch they begin with.
    late = ShownImages(50, adversary, recipe, 3, (1, 2))
    late.epoch = 2
    sampler.epoch = 2
    assert list(late) == [keys[1::2] for keys in sampler]
    fixed = architecture.adversarial(config, {**architecture.loss_settings, "batches": "fixed"})
    many = ShownImages(50, fixed, recipe, 3, (0, 8))
    with pytest.raises(ConfigError, match="a batch of 16 images cannot be shared by 8 processes"):
        len(many)


def train(data: Path, out: Path, *more: str) -> int:
    changes = ["loss.epoch_images=24", "loss.phase_images=16", "loss.growing=true", "augmentation.adaptive_span=64"]
    words = ["train", str(data), "--task", "generate", "--model", "stylegan-16-small", "--epochs", "3"]
    words += ["--batch-size", "8", "--accelerator", "cpu", "--workers", "0", "--out", str(out)]
    return main([*words, *(word for change in (*changes, *more) for word in ("--set", change))])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures few images after an epoch."""
    monkeypatch.setattr("phidet.training.generate_task.MEASURED", 16)
    monkeypatch.setattr("phidet.training.features.Lite0Features", lambda device: Pooled())
    monkeypatch.setattr("phidet.training.generate_report.USUAL", Settings(samples=16, paths=4))


class Pooled:
    """Mean colours of sixteen fields: features that need no weights."""

    name = "pooled"

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        n, h, w, _ = images.shape
        return images.reshape(n, 4, h // 4, 4, w // 4, 3).mean((2, 4)).reshape(n, -1).astype(np.float32) / 255

    def differences(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.square(a.astype(np.float64) - b).mean((1, 2, 3))


def test_a_run_resumes_to_the_last_bit_across_its_phases(data: Path, tmp_path: Path, quick: None) -> None:
    assert train(data, tmp_path / "whole") == 0
    with interrupted_after(1):
        assert train(data, tmp_path / "cut") == 130
    assert main(["train", "--resume", str(tmp_path / "cut"), "--accelerator", "cpu", "--workers", "0"]) == 0
    rows = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "cut")]
    assert [row["detail"] for row in rows[0]] == [row["detail"] for row in rows[1]]
    assert rows[0][0]["detail"] > rows[0][-1]["detail"] == 0
    assert rows[0][-1]["augmented"] == rows[1][-1]["augmented"]
    for kind in ("last.safetensors", "best.safetensors"):
        config = load_model(tmp_path / "whole" / kind).config
        assert (config.class_names, config.labelled) == (tuple(NAMES), True)
        assert same_weights(tmp_path / "whole" / kind, tmp_path / "cut" / kind)
    assert len(list((tmp_path / "whole" / "samples").glob("*.png"))) == 3
    report = json.loads((tmp_path / "whole" / "report" / "generation.json").read_text())
    assert (report["features"], report["made"], report["real"]) == ("pooled", 16, 24)
    # The same seed gives the same images; a class is asked for by its name.
    generator = open_generator(tmp_path / "whole")
    images = generator.sample(3, seed=5, class_ids=generator.class_id("Disc"))
    np.testing.assert_array_equal(images, generator.sample(3, seed=5, class_ids=0))
    assert images.shape == (3, 16, 16, 3)
    with pytest.raises(ConfigError, match="makes disc, square"):
        generator.sample(1)


def test_a_folder_of_images_without_labels_is_learned(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(scene(i)[0]).save(folder / f"{i}.png")
    dataset = whole_images(read_images(folder))
    assert [crop.class_id for crop in crops_of(dataset)] == [0] * 8
    assert train(folder, tmp_path / "run", "loss.growing=false", "loss.batches=fixed", "epochs=1") == 0
    # An epoch is what the schedule says, however few images there are.
    assert "8 images (24 are seen in all): 1 epoch, batch 8, adam, rate" in caplog.text
    config = load_model(tmp_path / "run" / "last.safetensors").config
    assert config.class_names == ("image",)
    assert not config.labelled
    empty = tmp_path / "empty"
    empty.mkdir()
    assert train(empty, tmp_path / "none") == 3


def test_augmentation_does_nothing_at_zero_and_is_exact_where_it_moves_whole_pixels() -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rng = np.random.default_rng(0)
    nothing = change_images(images, draw_geometry(6, 0.0, 16, rng), draw_colour(6, 0.0, rng))
    assert torch.allclose(nothing, images, atol=1e-5)
    flip, turn, move = np.diag([-1.0, 1, 1]), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.eye(3)
    move[0, 2] = 2 * 2 / 16
    for matrix, expected in ((flip, images.flip(3)), (turn, None), (move, None)):
        moved = change_images(images, np.stack([matrix] * 6), np.stack([np.eye(4)] * 6))
        if matrix is move:
            assert torch.allclose(moved[:, :, :, :-2], images[:, :, :, 2:], atol=1e-5)
        else:
            options = [images.flip(3)] if expected is not None else [images.rot90(k, (2, 3)) for k in (1, 3)]
            assert any(torch.allclose(moved, option, atol=1e-5) for option in options)
    # Colours change independently of place: grey stays grey under rotated hue and saturation, black and white swap.
    rng = np.random.default_rng(1)
    colours = draw_colour(4000, 1.0, rng)
    grey = colours @ np.array([0.5, 0.5, 0.5, 1.0])
    np.testing.assert_allclose(grey[:, :3], grey[:, :1].repeat(3, 1), atol=1e-9)
    inverted = (colours[:, :3, :3] @ np.ones(3)).mean(1) < 0
    assert 0.45 < inverted.mean() < 0.55


def test_each_change_comes_as_often_as_its_probability() -> None:
    rng = np.random.default_rng(2)
    for p in (0.3, 0.7):
        changed = (np.abs(draw_geometry(20_000, p, 64, rng) - np.eye(3)) > 1e-9).any((1, 2))
        # Of flips and quarter turns some change nothing: half, and a quarter.
        same = (1 - p / 2) * (1 - 3 * p / 4) * (1 - p) * (1 - p) * (1 - p) * (1 - p) * (1 - p)
        assert changed.mean() == pytest.approx(1 - same, abs=0.015)


def test_the_probability_follows_the_sign() -> None:
    probability = AdaptiveProbability(target=0.6, span=1000)
    for _ in range(8):
        probability.note(torch.tensor(0.9), 10)
    assert probability.value == pytest.approx(80 / 1000)
    for _ in range(3):
        probability.note(torch.tensor(0.1), 10)
    saved = probability.state()
    again = AdaptiveProbability(target=0.6, span=1000)
    again.restore(saved)
    for each in (probability, again):
        each.note(torch.tensor(0.1), 10)
        assert each.value == pytest.approx(40 / 1000)
        for _ in range(40):
            each.note(torch.tensor(-1.0), 10)
        assert each.value == 0.0


def test_measures_are_the_official_ones(shared: Path) -> None:
    ops = np.load(shared / "reference/stylegan/ops.npz")
    np.testing.assert_allclose(slerp(ops["slerp_a"], ops["slerp_b"], ops["slerp_t"]), ops["slerp"], atol=1e-6)
    later = slerp(ops["slerp_a"], ops["slerp_b"], ops["slerp_t"] + 1e-4)
    np.testing.assert_allclose(later, ops["slerp_t_plus_eps1e-4"], atol=1e-6)
    entropies = [conditional_entropy(table) for table in ops["ls_tables"]]
    np.testing.assert_allclose(entropies, ops["ls_cond_entropy"], atol=1e-6)
    assert 2 ** sum(entropies) == pytest.approx(float(ops["ls_score"]), rel=1e-6)
    assert path_length(ops["ppl_distances"]) == pytest.approx(ops["ppl_lo_hi_mean_count"][2], rel=1e-6)


def test_the_distance_of_normal_distributions_is_known() -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((4000, 3)) @ np.diag([1.0, 2.0, 3.0])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + np.array([3, 0, 4])) == pytest.approx(25, abs=1e-6)
    # Scaled by 2: Σ (σ − 2σ)².
    assert frechet_distance(a, 2 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(np.trace(np.cov(a.T)), rel=1e-6)
    with pytest.raises(InputError, match="needs two images of each"):
        frechet_distance(a[:1], a)


def test_precision_and_recall_tell_quality_from_variety() -> None:
    rng = np.random.default_rng(4)
    real = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(20, 1, (300, 2))])
    one_kind = precision_recall(real, rng.normal(0, 1, (300, 2)))
    assert one_kind.precision > 0.9
    assert one_kind.recall == pytest.approx(0.5, abs=0.06)
    noise = precision_recall(real, rng.uniform(-40, 60, (300, 2)))
    assert noise.precision < 0.2
    assert precision_recall(real, real) == (1.0, 1.0)
    assert nearest_real(real, real[[7, 400]], 1).ravel().tolist() == [7, 400]


def test_planes_separate_what_is_linear() -> None:
    from sklearn.svm import LinearSVC  # noqa: PLC0415 - the peer

    rng = np.random.default_rng(5)
    points = rng.standard_normal((600, 6))
    noisy = points[:, 0] - points[:, 3] + 0.5 * rng.standard_normal(600) > 0.2
    peer = LinearSVC(C=1, tol=1e-8, max_iter=100_000).fit(points, noisy).predict(points)
    assert (linear_classifier(points, noisy) == peer).mean() > 0.995
    sure = 1 / (1 + np.exp(-8 * points[:, 1]))
    circle = 1 / (1 + np.exp(4 - 4 * np.square(points[:, :2]).sum(1)))
    assert separability(points, sure[:, None]) < 1.02
    assert separability(points, circle[:, None]) > 1.5
    with pytest.raises(InputError, match="same answer for all images"):
        separability(points, np.full((600, 1), 0.9))


def test_objects_are_read_from_any_data(data: Path, tmp_path: Path) -> None:
    assert len(crops_of(read_objects(data))) == 24
    for i in range(4):
        folder = tmp_path / "classes" / ("a" if i % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(i)[0]).save(folder / f"{i}.png")
    labelled = read_objects(tmp_path / "classes")
    assert labelled.class_names == ("a", "b")
    assert sorted(crop.class_id for crop in crops_of(labelled)) == [0, 0, 1, 1]
    alone = read_objects(tmp_path / "classes" / "a")
    assert alone.class_names == ("image",)
    assert len(crops_of(alone)) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="is in no layout that phidet knows"):
        read_objects(tmp_path / "none")


def test_a_class_that_is_rare_is_shown_more_often(data: Path) -> None:
    config = stylegan_config("stylegan-16-small", tuple(NAMES))
    architecture = architecture_named("stylegan")
    task = GenerateTask(config, open_data(data).read("train").subset(range(12), "train"))
    task.crops = [crop for crop in task.crops if crop.class_id == 0 or crop.image < 3]  # 12 discs, 3 squares
    recipe = replace(SMALL, {"batch_size": 8, "loss": {**architecture.loss_settings, "batches": "fixed"}})
    shown = {}
    for balance in (0.0, 0.5):
        sampler = task.sampler(replace(recipe, {"class_balance": balance}), 0, 0, 1)
        keys = [key for keys in sampler for key in keys]
        shown[balance] = np.mean([task.crops[index].class_id for _, index in keys])
    assert shown[0.0] == pytest.approx(0.2, abs=0.01)
    # Squares are a fifth: they come 0.5 / 0.2 times as often, discs as often as before.
    assert shown[0.5] == pytest.approx(3 * 2.5 / (12 + 3 * 2.5), abs=0.01)


def test_without_features_a_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise DownloadError("no network")

    monkeypatch.setattr("phidet.training.features.Lite0Features", none)
    assert train(data, tmp_path / "run", "loss.growing=false", "epochs=1") == 0
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert (tmp_path / "run" / "report" / "mixing.png").is_file()
    assert not (tmp_path / "run" / "report" / "generation.json").exists()
