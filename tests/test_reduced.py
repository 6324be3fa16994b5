"""Images decoded at a fraction of their size: where their pixels lie, when it happens, and that boxes stay in place."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import needs_pytorch
from phidet.cli.main import main
from phidet.core.errors import InputError
from phidet.detections.boxes import elementwise_iou
from phidet.images.decode import Decoded, Reduced, read_image, read_reduced, size_of
from phidet.images.prepare import fit_scale, scaled_size
from phidet.images.sources import SourceImage, read_sources
from phidet.inference.detector import Detector

pytestmark = pytest.mark.usefixtures("unrendered")


def scene(height: int, width: int) -> Image.Image:
    """Smooth blobs, which survive being made smaller."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1, **settings: Any) -> bytes:
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(content, "JPEG", exif=exif, quality=95, **settings)
    return content.getvalue()


def half(hw: tuple[int, int]) -> tuple[int, int]:
    return hw[0] // 2, hw[1] // 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(96, 128), (101, 131), (100, 132), (97, 128)])
def test_a_pixel_is_the_mean_of_those_that_it_stands_for(orientation: int, height: int, width: int) -> None:
    content = jpeg(scene(height, width), orientation)
    whole = read_image(content).astype(np.float64)
    for least in (1, 2, 4):
        reduced = read_reduced(content, lambda hw, least=least: (hw[0] // (8 // least), hw[1] // (8 // least)))  # type: ignore[misc]
        assert reduced.size_hw == whole.shape[:2]
        factor, (rows, columns) = reduced.factor, reduced.pixels.shape[:2]
        assert (rows, columns) == (-(-whole.shape[0] // factor), -(-whole.shape[1] // factor))
        inside = whole[: whole.shape[0] // factor * factor, : whole.shape[1] // factor * factor]
        means = inside.reshape(len(inside) // factor, factor, -1, factor, 3).mean((1, 3))
        # JPEG rounds, and so do its colours; a pixel's shift would show in the gradients of the blobs.
        assert np.abs(reduced.pixels[: len(means), : means.shape[1]] - means).mean() < 1.5
        if orientation == 1:
            assert factor == 8 // least


@settings(max_examples=40)
@given(
    st.tuples(st.integers(16, 700), st.integers(16, 700)),
    st.tuples(st.integers(32, 128), st.integers(32, 128)),
    st.integers(1, 8),
)
def test_it_is_never_smaller_than_needed_and_never_needlessly_large(
    stored_hw: tuple[int, int], size_hw: tuple[int, int], orientation: int
) -> None:
    image = Image.new("L", stored_hw[::-1])

    def needed(hw: tuple[int, int]) -> tuple[int, int]:
        return scaled_size(hw, min(1.0, fit_scale(hw, size_hw)))

    reduced = read_reduced(jpeg(image, orientation), needed)
    (rows, columns), wanted = reduced.pixels.shape[:2], needed(reduced.size_hw)
    assert rows >= wanted[0]
    assert columns >= wanted[1]
    # Twice as small would have been too small, or have split a pixel of an image that is turned.
    twice = [-(-side // (2 * reduced.factor)) for side in reduced.size_hw]
    split = orientation > 1 and any(side % (2 * reduced.factor) for side in reduced.size_hw)
    assert reduced.factor == 8 or split or twice[0] < wanted[0] or twice[1] < wanted[1]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    content = io.BytesIO()
    scene(96, 128).save(content, form)
    reduced = read_reduced(content.getvalue(), lambda _: (1, 1))
    assert reduced.factor == 1
    assert (reduced.pixels == read_image(content.getvalue())).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_reduced(mode: str, progressive: bool) -> None:
    content = jpeg(scene(96, 128).convert(mode), progressive=progressive)
    reduced = read_reduced(content, half)
    assert reduced.factor == 2
    means = read_image(content).reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(reduced.pixels - means).mean() < 1.5


def test_labels_on_stored_pixels_go_with_them() -> None:
    content = jpeg(scene(96, 128), orientation=6)
    turned, stored = read_reduced(content, half), read_reduced(content, half, (96, 128))
    assert (turned.size_hw, stored.size_hw) == ((128, 96), (96, 128))
    assert (turned.pixels == np.rot90(stored.pixels, -1)).all()


def test_what_is_refused_whole_is_refused_reduced() -> None:
    content = jpeg(scene(480, 640))
    checked: list[tuple[int, int]] = []
    read_reduced(content, half, check_size=lambda height, width: checked.append((height, width)))
    assert checked == [(480, 640)]  # limits count all pixels
    for damaged in (content[: len(content) // 2], content[:200]):
        messages = []
        for needed in (None, half):
            with pytest.raises(InputError) as caught:
                read_reduced(damaged, needed)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of people, four times as large as it was."""
    matplotlib = pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("large") / "people.jpg"
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("person", threads=1)


def test_boxes_are_in_pixels_of_the_whole_image(detector: Detector, large: Path) -> None:
    whole = read_image(large)
    assert isinstance(read_reduced(large, detector.needed_hw), Reduced)
    assert read_reduced(large, detector.needed_hw).factor == 4
    found, exact = detector(large), detector(whole)
    assert found.image_size_hw == exact.image_size_hw == whole.shape[:2]
    assert len(found) == len(exact) >= 1
    assert elementwise_iou(found.boxes_xyxy, exact.boxes_xyxy, "iou").min() > 0.95
    assert np.abs(found.scores - exact.scores).max() < 0.05


def test_exact_decodes_everything(large: Path) -> None:
    exact = Detector("person", threads=1, exact=True)
    one, other = exact(large), exact(read_image(large))
    assert (one.boxes_xyxy == other.boxes_xyxy).all()
    assert (one.scores == other.scores).all()


def test_the_whole_image_is_decoded_when_an_output_wants_it(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["detect", str(large), "--save", "images,crops,csv"]) == 0
    with Image.open(large) as image, Image.open("detections/people.jpg") as drawn:
        assert drawn.size == image.size
    crops = sorted(Path("detections/crops/person").glob("*.jpg"))
    rows = Path("detections/detections.csv").read_text().splitlines()
    assert len(crops) == len(rows) - 1 >= 1
    with Image.open(crops[0]) as crop:
        assert max(crop.size) > 448  # of the whole image's pixels: the network saw no more than that of all of it


def test_nothing_is_decoded_twice_for_numbers_alone(large: Path, detector: Detector) -> None:
    (item,) = read_sources([str(large)], needed=detector.needed_hw)
    assert isinstance(item, SourceImage)
    assert isinstance(item.seen, Reduced)
    assert item.size_hw == size_of(read_image(large))
    assert item.image is item.image  # once, however many outputs want it
    assert (item.image == read_image(large)).all()


def test_an_image_that_was_replaced_meanwhile_is_not_drawn_on(large: Path, tmp_path: Path, detector: Detector) -> None:
    path = tmp_path / "other.jpg"
    path.write_bytes(large.read_bytes())
    (item,) = read_sources([str(path)], needed=detector.needed_hw)
    assert isinstance(item, SourceImage)
    path.write_bytes(jpeg(scene(50, 60)))
    with pytest.raises(InputError, match="is another image now"):
        _ = item.image


@pytest.mark.repeated
def test_tiles_are_cut_from_all_pixels(large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", str(large), "--json", "--tile", "640"]) == 0
    tiled = capsys.readouterr().out
    assert main(["detect", str(large), "--json", "--tile", "640", "--exact"]) == 0
    assert capsys.readouterr().out == tiled


def test_placements_fit_images_whose_sides_no_factor_divides(detector: Detector) -> None:
    """A corner of the reduced image is the corner of the image, not of the pixel that is cut there."""
    seen: list[Any] = []
    detect = Detector(detector.network)
    detect._decode = lambda outputs, placement, settings: seen.append(placement)  # type: ignore[assignment]
    for height, width in product((1795, 1800), (2399, 2400)):
        image: Decoded = read_reduced(jpeg(scene(height, width)), detector.needed_hw)
        assert isinstance(image, Reduced)
        detect.detect([image])
        placement = seen.pop()
        assert placement.image_hw == (height, width)
        # One pixel of the reduced image in the input: it stands for ``factor`` of the image, whatever their number.
        rows, columns = image.pixels.shape[:2]
        fit = fit_scale((rows, columns), detector.config.image_size_hw)
        assert placement.scale * image.factor == pytest.approx(fit)


@needs_pytorch
def test_training_sees_the_same_objects_at_the_same_places(large: Path) -> None:
    from phidet.data.dataset import Annotations, Dataset  # noqa: PLC0415
    from phidet.training.loading import TrainImages  # noqa: PLC0415
    from phidet.training.recipe import Augmentation  # noqa: PLC0415

    height, width = read_image(large).shape[:2]
    boxes = np.array([[width / 4, height / 8, width / 2, height * 0.75]], np.float32)
    none = np.zeros(1, np.bool_)
    objects = Annotations(boxes, np.zeros(1, np.int64), np.ones(1, np.float32), none, none)
    sizes = np.array([[height, width]], np.int32)
    data = Dataset("d", ("person",), names=["a"], sources=[large], annotations=[objects], sizes_hw=sizes)
    settings = Augmentation(scale_jitter=(0.5, 1.5), mosaic=0.5)
    reduced = TrainImages(data, (256, 256), settings, seed=0)
    whole = TrainImages(data, (256, 256), settings, seed=0)
    whole._needed_hw = lambda image_hw: image_hw  # type: ignore[method-assign]
    assert data.reduced(0, reduced._needed_hw).factor == 4
    for epoch in range(6):
        small, large_one = reduced[epoch, 0], whole[epoch, 0]
        assert small.valid_hw == large_one.valid_hw
        assert np.abs(small.boxes_xyxy.numpy() - large_one.boxes_xyxy.numpy()).max(initial=0) < 0.01
        assert np.abs(small.pixels.numpy().astype(int) - large_one.pixels.numpy()).mean() < 4


@needs_pytorch
def test_images_stay_in_memory_within_a_bound() -> None:
    from phidet.training.image_cache import ImageCache  # noqa: PLC0415

    decoded: list[int] = []

    def image(index: int, side: int = 10) -> Reduced:
        decoded.append(index)
        return Reduced(np.full((side, side, 3), index, np.uint8), 1, (side, side))

    cache = ImageCache(700)  # two of 300 bytes, not three
    for _ in range(2):
        for index in range(3):
            assert (cache.get(index, lambda index=index: image(index)).pixels == index).all()  # type: ignore[misc]
    assert decoded == [0, 1, 2, 2]
    assert cache.bytes == 600
    for _ in range(2):
        cache.get(3, lambda: image(3, side=5))  # a smaller one still fits
    assert decoded == [0, 1, 2, 2, 3]


@needs_pytorch
def test_examples_do_not_depend_on_what_is_in_memory(large: Path) -> None:
    from phidet.data.dataset import Annotations, Dataset  # noqa: PLC0415
    from phidet.training.image_cache import ImageCache  # noqa: PLC0415
    from phidet.training.loading import TrainImages  # noqa: PLC0415
    from phidet.training.recipe import Augmentation  # noqa: PLC0415

    height, width = read_image(large).shape[:2]
    none = np.zeros(1, np.bool_)
    boxes = np.array([[10, 20, width / 2, height / 2]], np.float32)
    objects = Annotations(boxes, np.zeros(1, np.int64), np.ones(1, np.float32), none, none)
    sizes = np.array([[height, width]], np.int32)
    data = Dataset("d", ("person",), names=["a"], sources=[large], annotations=[objects], sizes_hw=sizes)
    settings = Augmentation(scale_jitter=(0.5, 1.5), mosaic=0.5, colour=0.4, flip=0.5)
    plain, cached = (TrainImages(data, (128, 128), settings, seed=0) for _ in range(2))
    cached.cache = ImageCache(2**30)
    for epoch in range(8):
        assert (plain[epoch, 0].pixels == cached[epoch, 0].pixels).all()
        assert (plain[epoch, 0].boxes_xyxy == cached[epoch, 0].boxes_xyxy).all()
    assert cached.cache.bytes > 0


@needs_pytorch
def test_classifiers_see_windows_of_all_pixels(large: Path) -> None:
    from phidet.data.dataset import Annotations, Dataset  # noqa: PLC0415
    from phidet.training.augmentation.classification import TrainWholeImages  # noqa: PLC0415
    from phidet.training.recipe import Augmentation  # noqa: PLC0415

    size = size_of(read_image(large))
    none = np.zeros(1, np.bool_)
    whole = Annotations(
        np.array([[0, 0, *size[::-1]]], np.float32), np.zeros(1, np.int64), np.ones(1, np.float32), none, none
    )
    data = Dataset("d", ("a",), names=["a"], sources=[large], annotations=[whole], sizes_hw=np.array([size], np.int32))
    images = TrainWholeImages(data, (64, 64), Augmentation(), seed=0)
    assert images._read(0, warn=False).image.shape[:2] == size


def test_evaluation_decodes_all_pixels_unless_it_is_asked_not_to(large: Path) -> None:
    pytest.importorskip("tqdm")
    from phidet.data.dataset import Annotations, Dataset  # noqa: PLC0415
    from phidet.detections.detections import Detections  # noqa: PLC0415
    from phidet.evaluation.detect_dataset import detect_dataset  # noqa: PLC0415

    class Notes:
        class_names = ("person",)

        def __init__(self) -> None:
            self.seen: list[Decoded] = []

        def detect(self, arrays: Any, settings: Any = None) -> list[Detections]:
            self.seen += arrays
            return [Detections.empty(("person",), size_of(array)) for array in arrays]

    size = size_of(read_image(large))
    none, one = np.zeros(1, np.bool_), np.ones(1, np.float32)
    objects = Annotations(np.array([[0, 0, 9, 9]], np.float32), np.zeros(1, np.int64), one, none, none)
    sizes = np.array([size], np.int32)
    data = Dataset("d", ("person",), names=["a"], sources=[large], annotations=[objects], sizes_hw=sizes)
    notes = Notes()
    detect_dataset(notes, data)
    detect_dataset(notes, data, needed=half)
    assert isinstance(notes.seen[0], np.ndarray)
    assert notes.seen[0].shape[:2] == size
    assert isinstance(notes.seen[1], Reduced)
    assert notes.seen[1].factor == 2
