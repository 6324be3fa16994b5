"""The same object in the next frame: videos as data, pairs of frames as graphs, training, tracking, appearance."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import peers

pytest.importorskip("torch_geometric")

from made_boards import CLASSES, ClutterShares, observe
from made_boards.moving import make_video, visible
from made_boards.nominal import as_detections
from phidet import Detections, Relations, create_model, save_model
from phidet.architectures.registry import architecture_of, published_config
from phidet.architectures.relations.targets import graph_targets
from phidet.cli.main import main
from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import replace
from phidet.data.dataset import Annotations
from phidet.data.layouts import open_data
from phidet.data.writers.coco import write_coco
from phidet.detections.boxes import pairwise_iou
from phidet.detections.graphs.frames import join_frames, matches_of, side_by_side
from phidet.detections.graphs.graph import DetectionGraph
from phidet.detections.graphs.related import Related
from phidet.detections.tracking.assignment import assign
from phidet.detections.tracking.settings import TrackerSettings
from phidet.evaluation.results_file import read_results, write_results
from phidet.inference.appearance import AppearanceDetector
from phidet.inference.track_relations import RelationsTracker
from phidet.training.frame_pairs import frame_pairs
from phidet.training.relations_data import detections_from

pytestmark = pytest.mark.usefixtures("unrendered")
QUICK = ["--workers", "0", "--accelerator", "cpu"]
JUMP = 14.0  # px between frames; parts are 15 to 30 pixels long


def found_in(scene: Any, number: int) -> Detections:
    clutter = ClutterShares(missing=0.03, false=0.03, mislabelled=0.0, noise_px=0.7)
    return as_detections(observe(scene, number, clutter), scene.camera.size_hw)


def write_video_data(root: Path, split: str, seeds: range, frames: int = 5) -> Path:
    """Blank frames with the labels of made videos, and what a detector of known quality finds in them."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for seed in seeds:
        for number, scene in enumerate(make_video(seed, frames, JUMP, (224, 224), (2, 2))):
            size = {"width": 224, "height": 224, "video_id": f"board {seed}", "frame_id": 10 * number}
            images.append({"id": len(images) + 1, "file_name": f"{seed}-{number}.png", **size})
            Image.new("RGB", (224, 224), (seed, number, 0)).save(root / split / f"{seed}-{number}.png")
            for k in np.flatnonzero(visible(scene)).tolist():
                x1, y1, x2, y2 = scene.boxes_xyxy[k].tolist()
                entry = {"id": len(objects) + 1, "image_id": len(images), "bbox": [x1, y1, x2 - x1, y2 - y1]}
                objects.append(entry | {"category_id": CLASSES.index(scene.labels[k]) + 1, "track_id": k, "group": 1})
            results += found_in(scene, len(images)).to_coco(len(images), list(range(1, len(CLASSES) + 1)))
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (root.parent / f"{split}.json").write_text(json.dumps(results))
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos") / "data"
    write_video_data(root, "train", range(20))
    return write_video_data(root, "val", range(900, 906))


@pytest.fixture(scope="module")
def trained(videos: Path) -> Path:
    """A run on the videos, by the command line, and its export."""
    out = videos.parent / "run"
    files = [str(videos.parent / f"{split}.json") for split in ("train", "val")]
    words = ["train", str(videos), "--task", "relations", "--detector", *files, "--epochs", "12", "--out", str(out)]
    assert main([*words, "--set", "evaluate_every=12", *QUICK]) == 0
    assert main(["export", str(out)]) == 0
    return out


def test_identities_in_frames_of_videos_are_read_and_written(videos: Path, tmp_path: Path) -> None:
    read = open_data(videos).read("val")
    assert read.frames["900-3.png"] == ("board 900", 30)
    raw = json.loads((videos / "annotations" / "instances_val.json").read_text())
    tracks = [a["track_id"] for a in raw["annotations"] if a["image_id"] == 4]
    assert read.annotations(3).fields["group"].tolist() == tracks  # and not what "group" says
    write_coco({"val": read.subset(range(2, 9), "val")}, tmp_path / "out")
    again = open_data(tmp_path / "out").read("val")
    assert again.frames == {name: read.frames[name] for name in map(str, again.names)}
    assert again.annotations(1).fields["group"].tolist() == tracks


def test_without_frames_or_identities_groups_stay_groups(videos: Path, tmp_path: Path) -> None:
    for key in ("video_id", "track_id"):
        data = write_video_data(tmp_path / key / "data", "val", range(900, 901))
        path = data / "annotations" / "instances_val.json"
        content = json.loads(path.read_text())
        for entry in content["images"] + content["annotations"]:
            entry.pop(key, None)
        path.write_text(json.dumps(content))
        read = open_data(data).read("val")
        assert read.frames == {}
        assert set(read.annotations(0).fields["group"].tolist()) == {1}


def test_pairs_are_a_frame_and_the_next_one_that_is_there(videos: Path) -> None:
    read = open_data(videos).read("val")
    assert frame_pairs(read.subset(range(5), "one")) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    # In any order of the images; frames that are missing are skipped, videos not mixed.
    assert sorted(frame_pairs(read.subset([7, 3, 5, 0, 1], "some"))) == [(2, 0), (3, 4), (4, 1)]
    with pytest.raises(InputError, match="has no two frames of one video: expected images with video_id and frame_id"):
        frame_pairs(read.subset([0, 5], "two videos"))
    twice = read.subset([0, 1], "twice")
    twice.frames = dict.fromkeys(map(str, twice.names), ("a", 3))
    with pytest.raises(InputError, match=r"900-0.png and 900-1.png are both frame 3 of video a"):
        frame_pairs(twice)


def test_targets_are_pairs_across_frames_and_objects_stay_in_theirs() -> None:
    """Two objects change places between the frames, so each lies exactly where the other one was."""
    boxes = np.array([[10, 10, 30, 30], [60, 10, 80, 30.0]], np.float32)
    frame = Detections(boxes, np.array([0.9, 0.8]), np.array([0, 0]), ("part",), (40, 100))
    joined = join_frames(frame, frame)
    assert joined.fields["frame"].tolist() == [0, 1, 0, 1]
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j]).T
    data = two_frames(boxes, [5, 6], [6, 5])
    targets = graph_targets(DetectionGraph(joined, edges), data)
    assert targets.class_ids.tolist() == [0, 0, 0, 0]
    assert np.allclose(targets.box_deltas, 0)
    said = {(i, j): t for (i, j), t in zip(edges.T.tolist(), targets.together.tolist(), strict=True)}
    # 0 and 2 are objects 5 and 6 of the first frame, 1 and 3 are 6 and 5 of the second.
    assert {pair for pair, t in said.items() if t == 1} == {(0, 3), (3, 0), (2, 1), (1, 2)}
    assert {pair for pair, t in said.items() if t == -1} == {(0, 2), (2, 0), (1, 3), (3, 1)}


def two_frames(boxes: np.ndarray, first: list[int], second: list[int]) -> Annotations:
    both = np.concatenate((boxes, boxes + np.array([100, 0, 100, 0], np.float32)))  # side by side
    no, zeros = np.zeros(4, np.bool_), np.zeros(4, np.int64)
    return Annotations(both, zeros, np.full(4, 400, np.float32), no, no, {"group": np.array(first + second)})


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_the_likeliest_of_all_ways_to_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.permutation([0, 0, 0, 1, 1, 1, 1])
    pairs = np.array([(i, j) for i in range(7) for j in range(7) if i < j]).T
    together = rng.uniform(0.2, 1, pairs.shape[1]).astype(np.float32)
    odds = {(i, j): np.log(p / (1 - p)) for (i, j), p in zip(pairs.T.tolist(), together.tolist(), strict=True)}
    first, second = np.flatnonzero(frames == 0).tolist(), np.flatnonzero(frames == 1).tolist()

    def worth(chosen: list[tuple[int, int]]) -> float:
        return sum(odds[min(pair), max(pair)] for pair in chosen)

    ways = [
        [pair for pair in zip(first, order, strict=False) if odds[min(pair), max(pair)] > 0]
        for order in itertools.permutations(second, 3)
    ]
    best = max(map(worth, ways))
    matched = matches_of(frames, pairs, together)
    assert worth([tuple(pair) for pair in matched.T.tolist()]) == pytest.approx(best)
    assert set(frames[matched[0]]) <= {0}
    assert len(np.unique(matched)) == matched.size


def test_groups_of_two_frames_are_objects() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9.0]])
    frame = Detections(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), ("part",), (20, 60))
    joined = join_frames(frame, frame[:2])  # frames 0 1 0 1 0
    pairs = np.array([[0, 1], [2, 3], [0, 3], [4, 3]]).T
    edges = np.concatenate((pairs, pairs[::-1]), axis=1)
    edges = edges[:, np.lexsort(edges[::-1])]
    sure = {(0, 1): 0.9, (2, 3): 0.3, (0, 3): 0.8, (3, 4): 0.7}
    together = np.array([sure[min(e), max(e)] for e in edges.T.tolist()], np.float32)
    # All three pairs above 0.5 would be one group of four; an object has one detection in a frame.
    assert Related(DetectionGraph(joined, edges), together).groups.tolist() == [0, 0, 1, 2, 2]


def f1_of(videos: Path, pairs_of: Any) -> float:
    """F1 of pairs of rows of two frames that are said to be one object, on the validation videos."""
    hits = said = actual = 0
    for seed in range(900, 906):
        scenes = make_video(seed, 5, JUMP, (224, 224), (2, 2))
        for number, (one, two) in enumerate(itertools.pairwise(scenes)):
            first = found_in(one, 5 * (seed - 900) + number + 1)
            second = found_in(two, 5 * (seed - 900) + number + 2)
            ids = [source(scene, found) for scene, found in ((one, first), (two, second))]
            rows, columns = pairs_of(first, second)
            hits += int((ids[0][rows] == ids[1][columns])[ids[0][rows] >= 0].sum())
            said += len(rows)
            actual += len(set(ids[0][ids[0] >= 0]) & set(ids[1][ids[1] >= 0]))
    return 2 * hits / (said + actual)


def source(scene: Any, found: Detections) -> np.ndarray:
    """The part that each detection is of, −1 for false ones."""
    overlaps = pairwise_iou(found.boxes_xyxy, scene.boxes_xyxy.astype(np.float32))
    return np.where(overlaps.max(1) > 0.5, overlaps.argmax(1), -1)


def test_where_objects_jump_their_relations_pair_them_and_overlaps_do_not(videos: Path, trained: Path) -> None:
    relations = Relations(trained)
    assert relations.config.fields == {"frame": 1}
    assert "right" not in relations.config.answers

    def by_network(first: Detections, second: Detections) -> Any:
        row = {"row": np.arange(len(first))}, {"row": np.arange(len(second))}
        related = relations.relate(join_frames(first.with_fields(row[0]), second.with_fields(row[1])))
        fields = related.graph.detections.fields
        matched = matches_of(fields["frame"], related.graph.edges, related.together)
        return fields["row"][matched]

    def by_overlap(first: Detections, second: Detections) -> Any:
        return assign(pairwise_iou(first.boxes_xyxy, second.boxes_xyxy).astype(np.float64), 0.1)

    overlap, network = f1_of(videos, by_overlap), f1_of(videos, by_network)
    assert network > overlap + 0.15
    report = json.loads((trained / "report" / "relations.json").read_text())
    assert report["groups"] == pytest.approx(network, abs=0.06)
    assert report["images"] == 24  # pairs of frames
    assert report["detector_ap"] > 0.5  # objects of both frames are found where they are


def test_a_tracker_follows_what_the_network_pairs(trained: Path) -> None:
    tracker = RelationsTracker(Relations(trained), TrackerSettings(start=0.3, lost_s=0.25))
    ids: dict[int, list[int]] = {}
    for number, scene in enumerate(make_video(901, 5, JUMP, (224, 224), (2, 2))):
        found = found_in(scene, number)
        tracked = tracker.update(found, 0.1 * number)
        assert set(tracked.fields) == {"track_id"}
        assert len(np.unique(tracked.fields["track_id"])) == len(tracked)
        for part, track in zip(source(scene, tracked).tolist(), tracked.fields["track_id"].tolist(), strict=True):
            if part >= 0:
                ids.setdefault(part, []).append(track)
    kept = sum(one == two for track in ids.values() for one, two in itertools.pairwise(track))
    assert kept / sum(len(track) - 1 for track in ids.values()) > 0.8
    nothing = Detections.empty(CLASSES, (224, 224))
    assert len(tracker.update(nothing, 0.5)) == 0
    # After a short gap the tracks go on, after a long one new ones begin.
    again = tracker.update(found, 0.6)
    assert set(again.fields["track_id"].tolist()) & set(tracked.fields["track_id"].tolist())
    tracker.update(nothing, 1.5)
    last = max(again.fields["track_id"].tolist())
    assert min(tracker.update(found, 1.6).fields["track_id"].tolist()) > last
    with pytest.raises(ConfigError, match="detect on every frame"):
        tracker.predict(2.0)


class Known:
    """A detector in the place of :class:`phidet.Detector` for the frames of one made video."""

    class_names = CLASSES

    def __init__(self, *_: Any, **__: Any) -> None:
        self.scenes = iter(make_video(902, 5, JUMP, (224, 224), (2, 2)))

    def detect(self, arrays: Any, settings: Any = None) -> list[Detections]:
        return [found_in(next(self.scenes), 1) for _ in arrays]

    def close(self) -> None:
        """Nothing is open."""


def test_the_command_line_tracks_by_relations(
    videos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phidet.inference.detector.Detector", Known)
    frames = str(videos / "val" / "902-*.png")
    words = ["track", frames, "--fps", "10", "--start", "0.3", "--out", str(tmp_path / "out"), "--save", "mot"]
    assert main([*words, "--relations", str(trained)]) == 0
    rows = np.loadtxt(next((tmp_path / "out" / "mot").iterdir()), delimiter=",")
    by_relations = len(np.unique(rows[:, 1]))
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    plain = np.loadtxt(next((tmp_path / "plain" / "mot").iterdir()), delimiter=",")
    # A track that is lost begins anew with another number.
    assert by_relations < len(np.unique(plain[:, 1]))
    capsys.readouterr()
    assert main([*words, "--relations", str(trained), "--detect-every", "2"]) == 2
    assert "--relations pairs detections of every frame: leave out --detect-every" in capsys.readouterr().err
    assert main(["detect", frames, "--relations", str(trained)]) == 2
    assert f"relates two frames of a video: phidet track --relations {trained}" in capsys.readouterr().err


def test_a_network_on_single_images_tracks_nothing(tmp_path: Path) -> None:
    config = replace(published_config("relations-sage"), {"class_names": CLASSES})
    save_model(architecture_of(config).build(config), tmp_path / "one.safetensors")
    assert main(["export", str(tmp_path / "one.safetensors")]) == 0
    with pytest.raises(ConfigError, match="was not trained on frames of videos, whose images have video_id"):
        RelationsTracker(Relations(tmp_path / "one.onnx"), TrackerSettings())


# Appearance


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a small detector that finds something everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    model = create_model(peers.tiny_detector(CLASSES))
    # Before training every score is about 0.01; here they are about a quarter.
    prior = [p for p in model.parameters() if p.ndim == 1 and float(p.detach().mean()) < -4]
    assert len(prior) == 1
    prior[0].data.fill_(-1.0)
    save_model(model, folder / "best.safetensors")
    assert main(["export", str(folder)]) == 0
    return folder


def test_fields_that_are_numbers_are_kept_beside_detections(videos: Path, tmp_path: Path) -> None:
    dataset = open_data(videos).read("val")
    rng = np.random.default_rng(0)
    found = [found_in(make_video(900, 1, JUMP, (224, 224), (2, 2))[0], i)[: i % 4] for i in range(len(dataset))]
    found = [one.with_fields({"look": rng.standard_normal((len(one), 3))}) for one in found]
    written = write_results(tmp_path / "found.json", dataset, found)
    assert [path.name for path in written] == ["found.json", "found-images.json", "found-fields.npz"]
    again = detections_from(read_results(tmp_path / "found.json"), dataset)
    for one, other in zip(found, again, strict=True):
        assert np.allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        assert np.array_equal(np.asarray(one.fields["look"]), other.fields.get("look", np.zeros((0, 3))))
    # Detections of others that are written in their place have none.
    write_results(tmp_path / "found.json", dataset, [Detections.empty(CLASSES, (224, 224))] * len(dataset))
    assert not (tmp_path / "found-fields.npz").exists()
    np.savez(tmp_path / "found-fields.npz", look=np.zeros((7, 3)))
    with pytest.raises(InputError, match=r"found-fields.npz has 7 rows, the detections beside it are 0"):
        read_results(tmp_path / "found.json")


@pytest.mark.slow
def test_the_command_line_learns_and_uses_an_appearance(
    videos: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", str(videos), "--task", "relations", "--appearance", "--epochs", "2", *QUICK]
    split = ["--train-split", "val", "--val-split", "none"]
    assert main([*words, "--detector", str(detector), "--out", str(out), *split]) == 0
    assert main(["export", str(out)]) == 0
    relations = Relations(out)
    width = AppearanceDetector(Known(), detector).width
    assert relations.config.fields == {"frame": 1, "appearance": width}
    seen = read_results(out / "detections-train.json").columns["appearance"]
    assert seen.shape[1] == width
    assert len(seen) > 300
    assert float(seen.std(axis=0).min()) > 0
    frames = str(videos / "val" / "902-*.png")
    tracked = ["track", frames, "-m", str(detector), "--fps", "10", "--json", "--relations", str(out)]
    assert main(tracked) == 0
    # An export has no maps to look at.
    capsys.readouterr()
    tracked[3] = str(detector / "best.onnx")
    assert main(tracked) == 2
    assert "the appearance of detections needs the detector's model file or run folder" in capsys.readouterr().err
    # The detections that the run has kept bring theirs.
    files = [str(out / "detections-train.json"), *split]
    assert main([*words, "--out", str(tmp_path / "again"), "--detector", *files]) == 0
    assert main([*words, "--out", str(tmp_path / "none"), "--detector", str(videos.parent / "val.json"), *split]) == 2
    assert "have no appearance of the detections: give the detector's run folder" in capsys.readouterr().err


def test_side_by_side_leaves_single_images_alone() -> None:
    found = found_in(make_video(900, 1, JUMP)[0], 0)
    assert side_by_side(found) is found
    read = paired_of_two(found)
    assert read.image_size_hw == (384, 768)
    assert (read.boxes_xyxy[:, 0] >= 384).sum() == len(found)


def paired_of_two(found: Detections) -> Detections:
    return side_by_side(join_frames(found, found))
