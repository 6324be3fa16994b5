"""Made images: blending, placing, marking; generators without PyTorch; sheets and measures of generators."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from PIL import Image

from doctor_data import coco
from phidet import save_model
from phidet.architectures.stylegan.generator import Generator
from phidet.architectures.stylegan.published import stylegan_config
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, ExportError
from phidet.data.blend import blend, fade, membrane
from phidet.data.layouts import open_data
from phidet.data.made import made_images
from phidet.export.generator_file import export_generator
from phidet.images.decode import image_size
from phidet.inference.generator import ImageGenerator, mix, open_generator
from phidet.inference.measure_generator import OnnxFeatures, Settings, path_lengths
from phidet.inference.runtimes.torch_generator import TorchGenerator
from phidet.inference.sample_sheets import film
from test_generate import NAMES, Pooled, scene


@pytest.fixture
def data(tmp_path: Path) -> Path:
    splits = {"train": [scene(i) for i in range(8)], "val": [scene(i) for i in range(20, 24)]}
    return coco(tmp_path / "data", splits, NAMES)


def network(name: str = "stylegan-16-small", **fields: Any) -> Generator:
    """A generator whose noise and biases are not at their first values."""
    torch.manual_seed(0)
    model = Generator(msgspec.structs.replace(stylegan_config(name), **fields))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("noise_strength", "bias")):
                parameter.normal_(std=0.3)
        model.style_average.normal_()
    return model


def test_the_membrane_is_harmonic() -> None:
    y, x = np.mgrid[:9, :14].astype(float)
    known = np.stack([x * x - y * y, x * y, 3 * x - 2 * y + 1], -1)
    inside = known.copy()
    inside[1:-1, 1:-1] = 0
    np.testing.assert_allclose(membrane(inside), known, atol=1e-9)


def test_a_piece_takes_the_colour_of_its_ground() -> None:
    """A piece cut from the same image, but darker, vanishes where it came from."""
    y, x = np.mgrid[:60, :80]
    image = np.stack([100 + x, 100 + y, 50 + x + y // 2], -1).astype(np.uint8)
    before = image.copy()
    blend(image, image[10:40, 20:60] - 30, 20, 10)
    assert np.abs(image.astype(int) - before).max() <= 1
    # What differs inside stays, and nothing outside changes.
    marked = before[10:40, 20:60].copy()
    marked[12:18, 15:25] = (255, 0, 0)
    blend(image, marked, 20, 10)
    assert np.abs(image[23:27, 37:43].astype(int) - (255, 0, 0)).max() <= 25
    changed = np.argwhere((image != before).any(-1))
    assert changed.min(0)[0] >= 10
    assert changed.max(0)[1] < 60
    share = fade(31, 41)
    assert share[15, 20] == 1
    assert share[0].max() == share[:, 0].max() == share[2, 2] == 0


def test_boxes_follow_the_objects(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "more"
    words = ["--class", "Disc", "--count", "10", "--per-image", "2", "-o", str(out)]
    assert main(["synthesize", str(data), "--from", "crops", *words]) == 0
    assert "10 more objects" in capsys.readouterr().out
    folder = open_data(out)
    train, val = folder.read("train"), folder.read("val")
    made = made_images(train)
    assert made.sum() >= 5
    assert not made_images(val).any()
    assert (len(train) - made.sum(), len(val)) == (8, 4)
    rows = list(csv.DictReader((out / "made.csv").read_text().splitlines()))
    assert len(rows) == 10
    real = open_data(data).read("train")
    grounds = {str(name): i for i, name in enumerate(real.names)}
    for index in np.flatnonzero(made):
        image, objects = train.image(int(index)), train.annotations(int(index))
        own = [row for row in rows if row["image"] == Path(str(train.names[index])).name]
        ground = grounds[own[0]["ground"]]
        before = real.annotations(ground)
        # Objects of the ground stay, and each made one is where its box says: a red disc that fills it.
        np.testing.assert_allclose(objects.boxes_xyxy[: len(before.class_ids)], before.boxes_xyxy, atol=0.01)
        assert len(objects.class_ids) == len(before.class_ids) + len(own)
        for x1, y1, x2, y2 in objects.boxes_xyxy[len(before.class_ids) :]:
            red = np.abs(image.astype(int) - (200, 30, 30)).sum(-1) < 110
            part = red[round(y1) : round(y2), round(x1) : round(x2)]
            assert part.mean() == pytest.approx(np.pi / 4, abs=0.17)
            middle = red[round((y1 + y2) / 2)]
            assert middle[round(x1 + 2) : round(x2 - 2)].all()
            assert not middle[max(0, round(x1) - 3)]
        outside = np.ones(image.shape[:2], bool)
        for row in own:
            x1, y1, x2, y2 = (float(row[k]) for k in ("x1", "y1", "x2", "y2"))
            dx, dy = (x2 - x1) / 8 + 1, (y2 - y1) / 8 + 1
            outside[max(0, int(y1 - dy)) : int(y2 + dy) + 1, max(0, int(x1 - dx)) : int(x2 + dx) + 1] = False
        np.testing.assert_array_equal(image[outside], real.image(ground)[outside])
    # Again with the same seed: the same; never over what is there.
    assert main(["synthesize", str(data), "--from", "crops", *words]) == 2
    assert main(["synthesize", str(data), "--from", "crops", *words[:-1], str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "made.csv").read_bytes() == (out / "made.csv").read_bytes()


def test_made_images_are_told_from_real_ones_in_every_layout(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(network("stylegan-16-small", class_names=tuple(NAMES), labelled=True), tmp_path / "g.safetensors")
    out = tmp_path / "more"
    words = ["synthesize", str(data), "-g", str(tmp_path / "g.safetensors"), "--class", "square", "--count", "4"]
    assert main([*words, "-o", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "4\n  more objects of the class 'square', made from the generator stylegan-16-small (g.safetensors" in card
    for layout in ("yolo", "voc", "tfrecord"):
        assert main(["convert-data", str(out), str(tmp_path / layout), "--to", layout]) == 0
        capsys.readouterr()
        assert main(["doctor", str(tmp_path / layout), "--json"]) in (0, 1)
        facts = json.loads(capsys.readouterr().out)
        made = {split["name"]: split["made"] for split in facts["splits"]}
        assert made["train"] == made_images(open_data(out).read("train")).sum() > 0
        assert made["val"] == 0
    found = tmp_path / "none.json"
    found.write_text("[]")
    assert main(["eval", str(out), "-m", str(found), "--split", "train"]) == 3
    assert "are made, so metrics on them would say little of real ones" in capsys.readouterr().err
    # Where nothing validates, a part is held out before anything is made: it shows no training image.
    alone = coco(tmp_path / "alone", {"train": [scene(i) for i in range(8)]}, NAMES)
    assert main(["synthesize", str(alone), "--from", "crops", "--class", "disc", "-o", str(tmp_path / "split")]) in (
        0,
        3,
    )
    assert (
        main(
            [
                "synthesize",
                str(alone),
                "--from",
                "crops",
                "--class",
                "disc",
                "--count",
                "3",
                "-o",
                str(tmp_path / "held"),
            ]
        )
        == 0
    )
    held = open_data(tmp_path / "held")
    assert len(held.read("val")) == 1
    grounds = {row["ground"] for row in csv.DictReader((tmp_path / "held" / "made.csv").read_text().splitlines())}
    assert not grounds & {str(name) for name in held.read("val").names}


def test_what_cannot_be_made_has_one_message(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = ["synthesize", str(data), "--class"], ["-o", str(tmp_path / "out")]
    for words, what in (
        (["disc", "--from", "generator", *out], "name one"),
        (["disc", "--from", "crops", "-g", "g.onnx", *out], "name one"),
        (["disc", "--from", "crops"], "say where to write"),
        (["dics", "--from", "crops", *out], "Did you mean disc?"),
        (["disc", "--from", "crops", "--count", "0", *out], "--count must be a whole number ≥ 1, got 0"),
        (["disc", "-g", str(data / "nothing.safetensors"), *out], "there is no model"),
    ):
        assert main([*base, *words]) in (2, 4)
        assert what in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stylegan-32-small", {}),
    ("stylegan-16-small", {"class_names": ("a", "b"), "labelled": True}),
    ("stylegan-16-b", {"channels_limit": 16}),
    ("stylegan-16-small", {"fused_scale": "always"}),
)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_exported_generators_make_the_same_images(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    model = network(name, **fields)
    for half in (False, True):
        written = export_generator(model, tmp_path / "g.onnx", half)
        assert written.difference <= (8 if half else 1)
    exported, own = open_generator(tmp_path / "g.onnx"), ImageGenerator(TorchGenerator(model))
    assert exported.config == own.config
    class_id = 1 if own.config.labelled else None
    ours, theirs = (g.sample(3, 5, class_id, psi=0.6).astype(int) for g in (own, exported))
    assert np.abs(ours - theirs).max() <= 3
    assert ours.std() > 20
    # The stored noise, too.
    stored = [g.images(g.styles(g.latents(2, 1), class_id)).astype(int) for g in (own, exported)]
    assert np.abs(stored[0] - stored[1]).max() <= 3


def test_an_exported_generator_needs_no_pytorch(tmp_path: Path) -> None:
    model = network().train()
    export_generator(model, tmp_path / "g.onnx")
    assert model.training
    script = f"""
import sys
sys.modules["torch"] = None
from phidet.cli.main import main
for kind in ("grid", "mixing", "truncation", "path"):
    assert main(["sample", {str(tmp_path / "g.onnx")!r}, "--as", kind, "-o", {str(tmp_path)!r} + f"/{{kind}}.png"]) == 0
words = ["sample", {str(tmp_path / "g.onnx")!r}, "--as"]
assert main([*words, "film", "--count", "4", "-o", {str(tmp_path / "f.gif")!r}]) == 0
assert main([*words, "images", "--count", "2", "-o", {str(tmp_path / "many")!r}]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with Image.open(tmp_path / "f.gif") as frames:
        assert frames.n_frames == 4  # type: ignore[attr-defined]
    names = [path.name for path in sorted((tmp_path / "many").iterdir())]
    assert names == ["made-by-phidet-000001.png", "made-by-phidet-000002.png"]
    for kind, size in (("truncation", (6, 6)), ("path", (9, 2)), ("mixing", (7, 5))):
        assert image_size(tmp_path / f"{kind}.png") == tuple(2 * (18 * n + 2) for n in reversed(size))
    (tmp_path / "g-mapping.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"g-mapping\.onnx is missing"):
        open_generator(tmp_path / "g.onnx")


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Generator.write_synthesis

    def without_style(self: Generator, graph: Any) -> str:
        return str(graph.add("Mul", [real(self, graph), graph.constant(0.5)]))

    monkeypatch.setattr(Generator, "write_synthesis", without_style)

    def export_refused() -> None:
        with pytest.raises(ExportError, match=r"differ from PyTorch's by up to \d+ grey levels"):
            export_generator(network(), tmp_path / "g.onnx")

    export_refused()
    assert not list(tmp_path.iterdir())
    # What an earlier export left stays.
    earlier = {tmp_path / name: name.encode() for name in ("g.onnx", "g-mapping.onnx")}
    for path, content in earlier.items():
        path.write_bytes(content)
    export_refused()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == earlier


def test_mixing_takes_layers_from_two_images(tmp_path: Path) -> None:
    generator = ImageGenerator(TorchGenerator(network("stylegan-32-small")))
    styles = generator.styles(generator.latents(2, 3))
    both = mix(styles[:1], styles[1:], 4)
    np.testing.assert_array_equal(both[:, :4], styles[:1, :4])
    np.testing.assert_array_equal(both[:, 4:], styles[1:, 4:])
    average = generator.images(generator.styles(generator.latents(3, 0), psi=0.0))
    assert np.abs(average[0].astype(int) - average[1]).max() <= 1  # all are the average
    assert main(["sample", str(tmp_path / "no.onnx")]) == 4


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seed", "-1", "expected a whole number from 0 to 2³² − 1, got '-1'"),
        ("--psi", "nan", "expected a number, got 'nan'"),
        ("--psi", "inf", "expected a number, got 'inf'"),
    ],
)
@pytest.mark.parametrize("words", [["sample", "g.onnx"], ["synthesize", "data", "--class", "a", "--count", "1"]])
def test_numbers_that_make_no_image_are_refused(
    words: list[str], option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*words, f"{option}={value}"])
    assert said in capsys.readouterr().err


def test_the_generator_refuses_them_too() -> None:
    generator = ImageGenerator(TorchGenerator(network()))
    with pytest.raises(ConfigError, match="seed must be a whole number ≥ 0, got -1"):
        generator.sample(1, seed=-1)
    with pytest.raises(ConfigError, match="psi must be a number, got nan"):
        generator.sample(1, psi=float("nan"))


def test_the_page_holds_every_mixture(tmp_path: Path) -> None:
    save_model(network(), tmp_path / "g.safetensors")
    assert main(["sample", str(tmp_path / "g.safetensors"), "--as", "page", "-o", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"(src|href)=|https?:", text)  # nothing is fetched
    import base64  # noqa: PLC0415
    import io  # noqa: PLC0415

    sheets = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'\["([A-Za-z0-9+/=]+)"', text)]
    assert [sheet.size for sheet in sheets] == [(6 * 16, 36 * 16), (9 * 16, 9 * 16)]
    generator = open_generator(tmp_path / "g.safetensors")
    styles = generator.styles(generator.latents(6, 0))
    # Row coarse × 6 + middle, column fine; where all three are one source, it is that source.
    pixels = np.asarray(sheets[0])
    for i in (0, 3, 5):
        tile = pixels[(6 * i + i) * 16 : (6 * i + i + 1) * 16, i * 16 : (i + 1) * 16]
        assert np.abs(tile.astype(int) - generator.images(styles[i : i + 1])[0]).max() <= 1


def test_a_generator_is_measured_by_any_network(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(network("stylegan-16-small", class_names=tuple(NAMES), labelled=True), tmp_path / "g.safetensors")
    mean = _onnx(tmp_path / "colours.onnx", 1)
    difference = _onnx(tmp_path / "squares.onnx", 2)
    words = ["eval", str(data), "-m", str(tmp_path / "g.safetensors"), "--features", str(mean), "--perception"]
    assert main([*words, str(difference), "--samples", "20", "--paths", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["features"], report["perception"]) == ("colours", "squares")
    assert (report["real"], report["made"]) == (16, 20)
    assert report["distance"] > 100  # random colours are far from red, blue and grey
    assert report["path_lengths"]["w_full"] > 0
    assert main([*words, str(mean), "--samples", "20", "--paths", "8"]) == 4
    assert "colours takes 1 inputs, expected 2 of images" in capsys.readouterr().err
    features = OnnxFeatures(mean)
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(features(images), images.mean((1, 2)), rtol=1e-5)


def test_a_path_length_is_the_speed_along_the_path() -> None:
    """With an identity for a generator, the way through w is straight: its speed is the distance of the ends."""

    class Straight:
        config: Any = msgspec.structs.replace(stylegan_config("stylegan-8-small"), latent_size=6, noise=False)
        style_average = np.zeros(6, np.float32)

        def styles(self, latents: npt.NDArray[np.float32], labels: object) -> npt.NDArray[np.float32]:
            return np.repeat(latents[:, None], 4, 1)

        def render(self, styles: npt.NDArray[np.float32], noise: object) -> npt.NDArray[np.float32]:
            return np.tile(styles[:, 0, :3, None, None], (1, 1, 8, 8)) / np.float32(127.5) - 1

    class Squares:
        name = "squares"

        def differences(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            return np.square(a.astype(np.float64) - b)[:, :, 0, 0].sum(1)

    settings = Settings(paths=4000)
    found = path_lengths(ImageGenerator(Straight()), np.zeros(1, np.int64), Squares(), settings)
    # E‖a − b‖² over three of the components is 6; percentiles take a little away. fp32 limits steps of 1e-4.
    assert found.w_full == pytest.approx(6, rel=0.1)
    assert found.w_end == pytest.approx(6, rel=0.1)


def _onnx(path: Path, inputs: int) -> Path:
    """Mean colours of one input, or mean squared differences of two."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    names = [f"in{i}" for i in range(inputs)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in names]
    if inputs == 1:
        nodes = [helper.make_node("ReduceMean", names, ["out"], axes=[2, 3], keepdims=0)]
    else:
        nodes = [helper.make_node("Sub", names, ["d"]), helper.make_node("Mul", ["d", "d"], ["s"])]
        nodes.append(helper.make_node("ReduceMean", ["s"], ["out"], axes=[1, 2, 3], keepdims=0))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", values, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_features_need_not_be_a_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        OnnxFeatures(tmp_path / "no.onnx")
    assert Pooled()(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 48)
    generator = ImageGenerator(TorchGenerator(network()))
    with pytest.raises(ConfigError, match="a film is written as"):
        film(generator, tmp_path / "film.mov", 3, 0)
