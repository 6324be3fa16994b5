"""Measures a generator against real images, by any network's features."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import CheckpointError
from phidet.data.crops import CropImages
from phidet.detections.boxes import FloatArray
from phidet.evaluation.generation import (
    PATH_STEP,
    frechet_distance,
    path_length,
    precision_recall,
    separability,
    slerp,
)
from phidet.inference.generator import ImageGenerator, Images
from phidet.inference.runtimes.onnx_runtime import open_session, session_options

_BATCH = 32


class Features(Protocol):
    """Describes images; measures by different ones are not comparable."""

    @property
    def name(self) -> str:
        """What the measures are called after."""

    def __call__(self, images: Images) -> FloatArray:
        """(N, H, W, 3) uint8 RGB → (N, D)."""


class Perception(Protocol):
    """Tells how different images look."""

    @property
    def name(self) -> str:
        """What the measures are called after."""

    def differences(self, a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
        """(N,) of images (N, 3, H, W) from 0 to 255; squared distances, as those of LPIPS."""


class PathLengths(msgspec.Struct, frozen=True, kw_only=True):
    """Perceptual path lengths, through z and w, between latents ("full") and where they begin ("end")."""

    z_full: float
    z_end: float
    w_full: float
    w_end: float


class GenerationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of a generator.

    Attributes:
        model: its name.
        features, perception: what they were measured by.
        real, made: numbers of images.
        distance: Fréchet's; with features of the official Inception network it is FID.
        precision, recall: see :class:`phidet.evaluation.generation.PrecisionRecall`.
        path_lengths: lower is smoother; with VGG's perception they are PPL.
        separability_z, separability_w: of latents by a classifier's answers; 1 is best, ``None`` without a classifier.
    """

    model: str
    features: str
    perception: str
    real: int
    made: int
    distance: float
    precision: float
    recall: float
    path_lengths: PathLengths | None = None
    separability_z: float | None = None
    separability_w: float | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured.

    Attributes:
        samples: made images for distance, precision and recall; the paper took 50,000.
        paths: pairs of images for each path length, 0 for none; the paper took 100,000.
        seed: of latents and noise.
        faces: path lengths from the middle of images alone, where faces are, as the paper did on faces.
    """

    samples: int = 2000
    paths: int = 500
    seed: int = 0
    faces: bool = False


class OnnxFeatures:
    """Features or perception by a network of the user's, for instance the official Inception or VGG.

    Args:
        path: an ONNX file. For features: from RGB images (N, 3, H, W) from 0 to 255 to (N, D). For perception: from two
            such batches to (N,) or (N, 1, 1, 1) squared distances.

    Raises:
        CheckpointError: it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.session = open_session(path, session_options(None))
        self.inputs = [each.name for each in self.session.get_inputs()]

    def __call__(self, images: Images) -> FloatArray:
        """(N, H, W, 3) uint8 RGB → (N, D)."""
        planes = images.transpose(0, 3, 1, 2)
        parts = [self._run(planes[i : i + _BATCH]) for i in range(0, len(planes), _BATCH)]
        return np.concatenate(parts).reshape(len(images), -1)

    def differences(self, a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
        """(N,) squared distances of images (N, 3, H, W) from 0 to 255."""
        parts = [self._run(a[i : i + _BATCH], b[i : i + _BATCH]) for i in range(0, len(a), _BATCH)]
        return np.concatenate(parts).reshape(len(a)).astype(np.float64)

    def _run(self, *images: npt.NDArray[np.generic]) -> FloatArray:
        # Features take one image and perceptions two: the other kind of file is a mistake that is made easily.
        if len(images) != len(self.inputs):
            raise CheckpointError(f"{self.name} takes {len(self.inputs)} inputs, expected {len(images)} of images")
        arrays = [np.ascontiguousarray(each, np.float32) for each in images]
        return np.asarray(self.session.run(None, dict(zip(self.inputs, arrays, strict=True)))[0], np.float32)


def measure_generator(
    generator: ImageGenerator,
    real: CropImages,
    by: tuple[Features, Perception],
    settings: Settings | None = None,
) -> GenerationReport:
    """Measures samples without truncation, with noise of their own, against real images.

    Args:
        generator: what is measured.
        real: at the generator's resolution; made images have classes in the same proportions.
        by: features and perception.
        settings: how much; the usual unless given.
    """
    settings = settings or Settings()
    features, perception = by
    # Classes as frequent as in the real images, and not by chance: what is measured is not their mixture.
    spread = np.sort(real.class_ids)[np.arange(settings.samples) * len(real) // settings.samples]
    labels = spread if generator.config.labelled else None
    styles = generator.styles(generator.latents(settings.samples, settings.seed), labels)
    first = np.concatenate([features(batch) for batch in real.batches()])
    second = np.concatenate([features(batch) for batch in generator.batches(styles, settings.seed)])
    quality = precision_recall(first, second)
    lengths = path_lengths(generator, spread, perception, settings) if settings.paths else None
    return GenerationReport(
        model=generator.config.name,
        features=features.name,
        perception=perception.name,
        real=len(real),
        made=len(second),
        distance=frechet_distance(first, second),
        precision=quality.precision,
        recall=quality.recall,
        path_lengths=lengths,
    )


def path_lengths(
    generator: ImageGenerator, class_ids: npt.NDArray[np.int64], perception: Perception, settings: Settings
) -> PathLengths:
    """Perceptual path lengths (arXiv 1812.04948 section 4.1), without truncation.

    Args:
        generator: what is measured.
        class_ids: from which classes are drawn.
        perception: tells differences.
        settings: number of pairs, seed, and whether only the middle of faces counts.
    """
    found = {}
    for number, (space, end) in enumerate((space, end) for space in "zw" for end in (False, True)):
        # Random numbers of its own for each of the four, so that none depends on which others are measured.
        rng = np.random.default_rng((settings.seed, 2, number))
        distances = []
        for start in range(0, settings.paths, _BATCH):
            count = min(_BATCH, settings.paths - start)
            size = generator.config.latent_size
            a, b = (rng.standard_normal((count, size)) for _ in range(2))
            t = np.zeros((count, 1)) if end else rng.random((count, 1))
            labels = rng.choice(class_ids, count) if generator.config.labelled else None
            # The same noise for the whole batch: what differs is the path alone.
            noise_seed = int(rng.integers(2**31))
            near, far = (
                generator.pixels(_styles_at(generator, (a, b), t + step, labels, space), noise_seed)
                for step in (0.0, PATH_STEP)
            )
            if settings.faces:
                near, far = (_middle(images) for images in (near, far))
            distances.append(perception.differences(near, far))
        found[f"{space}_{'end' if end else 'full'}"] = path_length(np.concatenate(distances) / PATH_STEP**2)
    return PathLengths(**found)


def _middle(images: FloatArray) -> FloatArray:
    side = images.shape[2]
    return images[:, :, 3 * side // 8 : 7 * side // 8, 2 * side // 8 : 6 * side // 8]


def _styles_at(
    generator: ImageGenerator,
    ends: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    t: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64] | None,
    space: str,
) -> FloatArray:
    """w at t between two latents: along the sphere through z, or straight through w."""
    # Latents lie on a sphere, which a straight line between two of them would leave.
    if space == "z":
        return generator.styles(slerp(*ends, t).astype(np.float32), labels)
    first, second = (generator.styles(end.astype(np.float32), labels).astype(np.float64) for end in ends)
    return (first + t[:, :, None] * (second - first)).astype(np.float32)


def latent_separability(
    generator: ImageGenerator, probabilities_of: Features, samples: int, seed: int = 0
) -> tuple[float, float]:
    """Linear separability of z and of w (section 4.2) by what a classifier says of the images made from them.

    Args:
        generator: what is measured; classes are drawn evenly where it takes them.
        probabilities_of: images → (N, K) probabilities of K attributes.
        samples: images; the paper took 200,000.
        seed: of latents and noise.
    """
    latents = generator.latents(samples, seed)
    # As many of each class: what is to be separated must not be the classes' frequencies.
    class_ids = np.arange(samples) % generator.config.num_classes
    styles = generator.styles(latents, class_ids)
    answers = probabilities_of(generator.images(styles, seed))
    return separability(latents, answers), separability(styles[:, 0], answers)
