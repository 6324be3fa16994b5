"""The best score of each class: found on validation data, stored in a model, used wherever it detects."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from conftest import slowly
from metrics_data import a_dataset, detections, perfect, some_detections, thing, truth
from phidet.core.errors import CheckpointError, ConfigError
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.detections.thresholds import Thresholds, above_thresholds
from phidet.evaluation.class_counts import class_counts
from phidet.evaluation.curves import best_threshold, pr_curves
from phidet.evaluation.reliability import measure_reliability
from phidet.evaluation.thresholds import best_thresholds

pytestmark = pytest.mark.usefixtures("unrendered")
CLASSES = ("bolt", "nut", "washer")


def thresholds(*scores: float) -> Thresholds:
    return Thresholds(scores=scores, measured=(True,) * len(scores), data="val", images=9, iou=0.5)


@pytest.mark.repeated
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", [0, *slowly(*range(1, 6))])
def test_a_threshold_is_the_f1_optimum_of_its_class(seed: int, ties: bool) -> None:
    dataset = a_dataset(seed, difficult=0.1)
    found = some_detections(dataset, seed + 100, ties=ties)
    best = best_thresholds(dataset, found)
    assert best is not None

    # Brute force: every score that any detection has is tried as a threshold, and counted anew.
    tried = sorted({float(s) for one in found for s in one.scores.tolist()})
    f1s = np.array([[c.f1 or 0.0 for c in class_counts(dataset, found, score)] for score in tried])
    for c, score in enumerate(best.scores):
        if not best.measured[c]:
            continue
        assert (class_counts(dataset, found, score)[c].f1 or 0.0) == f1s[:, c].max()


def test_rounding_of_another_runtime_changes_nothing() -> None:
    dataset = a_dataset(3)
    found = some_detections(dataset, 4, ties=False)
    best = best_thresholds(dataset, found)
    assert best is not None
    for sign in (-1, 1):
        moved = [
            Detections(one.boxes_xyxy, one.scores * np.float32(1 + sign * 1e-6), one.class_ids, one.names)
            for one in found
        ]
        assert [best.kept(one).tolist() for one in moved] == [best.kept(one).tolist() for one in found]


def test_a_class_without_objects_gets_the_common_threshold() -> None:
    dataset = truth([thing((0, 0, 50, 50), "a"), thing((100, 0, 150, 50), "a")], classes=("a", "b", "c"))
    found = [
        detections(
            ((0, 0, 50, 50), 0.8, 0), ((200, 100, 250, 150), 0.7, 1), ((100, 0, 150, 50), 0.6, 0),
            ((200, 0, 250, 50), 0.4, 0),
        )
    ]  # fmt: skip
    best = best_thresholds(dataset, found)
    assert best is not None
    assert best.measured == (True, False, False)
    assert best.scores[0] == pytest.approx(0.5), "between 0.6, the last that is right, and 0.4"
    assert best.scores[1:] == (best_threshold(pr_curves(dataset, found)),) * 2
    assert (best.data, best.images, best.iou) == ("test", 1, 0.5)
    assert best_thresholds(dataset, [detections(((200, 0, 250, 50), 0.4, 0))]) is None


def test_a_class_is_not_crowded_out_by_detections_that_are_left_out() -> None:
    crowd = [((float(x), 0.0, x + 1.0, 9.0), 0.8 - x / 1000, 0) for x in range(200)]
    every = detections(*crowd, ((0, 50, 9, 59), 0.3, 1))

    def decode(settings: PostprocessSettings) -> Detections:
        return every.filter(score=settings.least_score)[: settings.max_detections]

    found = above_thresholds(decode, PostprocessSettings(score="auto"), thresholds(0.9, 0.2))
    assert found.class_ids.tolist() == [1]
    few = above_thresholds(decode, PostprocessSettings(score="auto", max_detections=2), thresholds(0.1, 0.2))
    assert few.scores.tolist() == every.scores[:2].tolist()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A detector whose scores lie about 0.5, as a run's file."""
    torch = pytest.importorskip("torch")
    import peers  # noqa: PLC0415
    from phidet import create_model, save_model  # noqa: PLC0415
    from phidet.core.structs import replace  # noqa: PLC0415

    torch.manual_seed(0)
    network = create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 128)}))
    with torch.no_grad():
        network.class_head.predict.pointwise.bias.fill_(0.0)
    save_model(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (100, 120, 3), np.uint8)


def test_every_kind_of_file_keeps_them(model: Path, tmp_path: Path) -> None:
    from phidet import Detector, load_model, save_model  # noqa: PLC0415
    from phidet.export.export import ExportOptions, export  # noqa: PLC0415
    from phidet.export.onnx_file import store_thresholds as store_in_onnx  # noqa: PLC0415
    from phidet.weights.native import store_thresholds  # noqa: PLC0415

    assert Detector(model).thresholds is None, "a file without them is read as before"
    before = load_model(model).state_dict()
    own = thresholds(0.5, 0.1, 1 / 3)
    store_thresholds(model, own)
    network = load_model(model)
    assert network.thresholds == own
    assert all(bool((value == before[name]).all()) for name, value in network.state_dict().items())

    save_model(network, tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == model.read_bytes()
    exports = {"onnx": tmp_path / "e.onnx"}
    try:
        import openvino  # noqa: F401, PLC0415

        exports["openvino"] = tmp_path / "e.xml"
    except ImportError:
        pass
    for to, path in exports.items():
        export(network, path, ExportOptions(to=to))
        assert Detector(path).thresholds == own, to
    store_in_onnx(tmp_path / "e.onnx", thresholds(0.2, 0.3, 0.4))
    changed = Detector(tmp_path / "e.onnx")
    assert changed.thresholds == thresholds(0.2, 0.3, 0.4)
    assert changed.config == network.config


def test_a_header_whose_thresholds_are_not_of_its_classes_is_refused(model: Path) -> None:
    from phidet import Detector  # noqa: PLC0415
    from phidet.weights.native import store_thresholds  # noqa: PLC0415

    store_thresholds(model, thresholds(0.5, 0.1))
    with pytest.raises(CheckpointError, match="2 thresholds for 3 classes"):
        Detector(model)


def test_auto_is_each_class_from_its_own_score(model: Path) -> None:
    from phidet import Detector  # noqa: PLC0415
    from phidet.weights.native import store_thresholds  # noqa: PLC0415

    with pytest.raises(ConfigError, match=r"stores no thresholds.*--store-thresholds"):
        Detector(model)(photo(), PostprocessSettings(score="auto"))
    all_found = Detector(model)(photo(), PostprocessSettings(score=0.01, max_detections=1000))
    middle = [float(np.median(all_found.scores[all_found.class_ids == c])) for c in range(3)]
    store_thresholds(model, thresholds(*middle))
    detector = Detector(model)
    found = detector(photo(), PostprocessSettings(score="auto", max_detections=1000))
    assert 0 < len(found) < len(all_found)
    for c in range(3):
        alone = detector(photo(), PostprocessSettings(score=middle[c], max_detections=1000))
        mine, theirs = found[found.class_ids == c], alone[alone.class_ids == c]
        assert mine == theirs


def labelled_folder(root: Path, model: Path) -> Path:
    """Images whose labels are every second detection of a model, as COCO."""
    from phidet import Detector  # noqa: PLC0415

    (root / "val").mkdir(parents=True)
    detector = Detector(model)
    images, objects = [], []
    for i in range(3):
        Image.fromarray(photo(i)).save(root / "val" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 120, "height": 100})
        for one in list(detector(photo(i), PostprocessSettings(score=0.3)))[::2]:
            x1, y1, x2, y2 = one.box_xyxy
            box = [x1, y1, x2 - x1, y2 - y1]
            objects.append({"id": len(objects), "image_id": i, "category_id": one.class_id + 1, "bbox": box})
    (root / "annotations").mkdir()
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": objects, "categories": categories}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return root


def test_the_commands_find_store_and_use_them(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from phidet import Detector  # noqa: PLC0415
    from phidet.cli.main import main  # noqa: PLC0415
    from phidet.data.layouts import open_data  # noqa: PLC0415

    data = labelled_folder(tmp_path / "data", model)
    image = str(data / "val" / "0.png")
    assert main(["detect", image, "-m", str(model), "--score", "auto", "--json"]) == 2
    assert "stores no thresholds" in capsys.readouterr().err
    assert main(["label", str(data / "val"), "-m", str(model), "--score", "auto", "--out", str(tmp_path / "l")]) == 2
    assert main(["eval", str(data), "-m", str(model), "--store-thresholds", "--out", str(tmp_path / "eval")]) == 0
    said = capsys.readouterr().out
    assert "threshold" in said
    assert f"wrote {model}" in said

    detector = Detector(model)
    assert detector.thresholds is not None
    stored = json.loads((tmp_path / "eval" / "report.json").read_bytes())["thresholds"]
    assert msgspec.convert(stored, Thresholds) == detector.thresholds
    assert (tmp_path / "eval" / "reliability.png").is_file()
    dataset = open_data(data).read("val", CLASSES)
    auto = PostprocessSettings(score="auto", max_detections=1000)  # so that a class is not cut off by others
    found = [detector.detect([dataset.image(i)], auto)[0] for i in range(3)]
    reached = [c.f1 for c in class_counts(dataset, found, 0.0)]
    everything = [detector.detect([dataset.image(i)], msgspec.structs.replace(auto, score=0.001))[0] for i in range(3)]
    for score in np.linspace(0.001, 0.999, 200):
        for c, counts in enumerate(class_counts(dataset, everything, float(score))):
            assert (reached[c] or 0) >= (counts.f1 or 0)

    assert main(["detect", image, "-m", str(model), "--score", "auto", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["detections"]) == min(100, len(found[0]))
    assert main(["label", str(data / "val"), "-m", str(model), "--score", "auto", "--out", str(tmp_path / "l")]) == 0
    assert json.loads((tmp_path / "l" / "prelabels.json").read_bytes())["score"] == "auto"


def test_training_ends_with_the_thresholds_of_the_best_model(model: Path, tmp_path: Path) -> None:
    from phidet import Detector, train  # noqa: PLC0415
    from phidet.data.layouts import open_data  # noqa: PLC0415
    from phidet.evaluation.detect_dataset import detect_dataset  # noqa: PLC0415
    from phidet.evaluation.thresholds import THRESHOLD_SETTINGS  # noqa: PLC0415
    from phidet.training.fit import RunSettings  # noqa: PLC0415

    data = labelled_folder(tmp_path / "data", model)
    settings = RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu")
    changes = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-9}  # so that something is still found
    train(data, model, splits=("val", "val"), changes=changes, settings=settings)
    best = tmp_path / "run" / "best.safetensors"
    detector = Detector(best)
    dataset = open_data(data).read("val", CLASSES)
    again = best_thresholds(*detect_dataset(detector, dataset, THRESHOLD_SETTINGS))
    assert again is not None
    assert detector.thresholds is not None
    assert detector.thresholds.scores == pytest.approx(again.scores, abs=1e-5)
    assert json.loads((tmp_path / "run/report/report.json").read_bytes())["thresholds"]["images"] == 3
    assert Detector(tmp_path / "run" / "last.safetensors").thresholds is None, "they are of the best model"

    left = best.stat().st_mtime_ns, best.read_bytes()
    train(data, settings=msgspec.structs.replace(settings, resume=True))
    assert (best.stat().st_mtime_ns, best.read_bytes()) == left, "a finished run is not written again"


def test_thresholds_are_not_put_where_they_cannot_be(model: Path, tmp_path: Path) -> None:
    from phidet.cli.main import main  # noqa: PLC0415

    assert main(["eval", str(tmp_path), "-m", "person", "--store-thresholds"]) == 2
    with pytest.raises(SystemExit):
        main(["detect", "x.png", "-m", str(model), "--score", "sometimes"])


def test_tracks_begin_at_the_score_of_their_class() -> None:
    pytest.importorskip("scipy")
    from phidet.core.errors import InputError  # noqa: PLC0415
    from phidet.detections.tracking.settings import TrackerSettings  # noqa: PLC0415
    from phidet.detections.tracking.tracker import Tracker  # noqa: PLC0415

    found = detections(((0, 0, 50, 50), 0.6, 0), ((100, 0, 150, 50), 0.3, 1))
    tracker = Tracker(TrackerSettings(class_scores=(0.7, 0.2)))
    tracker.update(found, 0.0)
    assert tracker.update(found, 0.04).class_ids.tolist() == [1]
    usual = Tracker()
    usual.update(found, 0.0)
    assert usual.update(found, 0.04).class_ids.tolist() == [0]
    with pytest.raises(InputError, match="class_scores has 1 classes"):
        Tracker(TrackerSettings(class_scores=(0.7,))).update(found, 0.0)
    with pytest.raises(ConfigError, match="class_scores"):
        TrackerSettings(class_scores=(1.5,))


def test_reliability_by_hand() -> None:
    dataset = truth([thing((0, 0, 50, 50)), thing((100, 0, 150, 50))])
    found = [
        detections(
            ((0, 0, 50, 50), 0.95, 0), ((100, 0, 150, 50), 0.65, 0), ((200, 0, 250, 50), 0.61, 0),
            ((200, 100, 250, 150), 0.01, 0),
        )
    ]  # fmt: skip
    measured = measure_reliability(dataset, found)
    # 0.95 is always right, 0.63 half the time; the score below the floor is not looked at.
    assert measured.ece == pytest.approx((abs(0.95 - 1) + 2 * abs(0.63 - 0.5)) / 3, abs=1e-6)
    assert measured.bias == pytest.approx((0.95 + 0.65 + 0.61 - 2) / 3, abs=1e-6)
    assert [b.detections for b in measured.bins] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    assert measured.bins[6].score == pytest.approx(0.63)
    assert (measured.bins[6].precision, measured.bins[9].precision) == (0.5, 1.0)
    sure = measure_reliability(dataset, perfect(dataset))
    assert sure.ece == pytest.approx(0.1), "all of 0.9, and all right"
    assert sure.bias == pytest.approx(-0.1)
    assert measure_reliability(dataset, [detections()]).ece is None


def test_scores_that_are_probabilities_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    objects, found = [], []
    for _ in range(40):
        here, boxes = [], []
        for k in range(50):
            box = (float(5 * k), 0.0, 5.0 * k + 4, 9.0)
            score = rng.uniform(0.05, 1)
            boxes.append((box, score, 0))
            if rng.random() < score:
                here.append(thing(box))
        objects.append(here)
        found.append(detections(*sorted(boxes, key=lambda one: -one[1])))
    dataset = truth(*objects)
    fair = measure_reliability(dataset, found)
    bold = [Detections(one.boxes_xyxy, one.scores ** np.float32(0.3), one.class_ids) for one in found]
    assert fair.ece is not None
    assert fair.ece < 0.03
    rash = measure_reliability(dataset, bold)
    assert rash.ece is not None
    assert rash.bias is not None
    assert rash.ece > 0.15
    assert rash.bias > 0.15
