"""What a generator can do, as images: samples, mixed styles, truncation, paths between latents, nearest real images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from phidet.core.errors import ConfigError
from phidet.core.files import write_atomic_with
from phidet.evaluation.generation import slerp
from phidet.inference.generator import ImageGenerator, Images, image_grid

TRUNCATIONS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
_FILM_FORMATS = {".gif": "gif", ".webp": "webp", ".png": "png"}


def sample_sheet(generator: ImageGenerator, rows: int, columns: int, seed: int, psi: float) -> Images:
    """Samples; where the generator takes classes, a class to each row in turn."""
    class_ids = np.repeat(np.arange(rows) % generator.config.num_classes, columns)
    return image_grid(generator.sample(rows * columns, seed, class_ids, psi), columns)


def mixing_sheet(generator: ImageGenerator, count: int, seed: int, class_id: int | None, psi: float) -> Images:
    """Mixed styles (arXiv 1812.04948 figure 3): columns give the fine layers, rows the coarse, middle or fine ones.

    The first row and column are the sources. Rows are in three groups: of each source, its coarse layers (4 and 8
    pixels), its middle ones (16 and 32), and its fine ones replace those of the column's source.
    """
    size = generator.config.num_layers
    groups = [(0, min(4, size)), (min(4, size), min(8, size)), (min(8, size), size)]
    # A small generator has no fine layers: a group without layers would only repeat the sources.
    groups = [(low, high) for low, high in groups if high > low]
    styles = generator.styles(generator.latents(count + 2 * len(groups), seed), class_id, psi)
    across, down = styles[:count], styles[count:]
    tiles = [np.full((*generator.config.image_size_hw, 3), 255, np.uint8), *generator.images(across)]
    for i, source in enumerate(down):
        low, high = groups[i // 2]
        swapped = across.copy()
        swapped[:, low:high] = source[None, low:high]
        tiles += [*generator.images(source[None]), *generator.images(swapped)]
    return image_grid(tiles, count + 1)


def truncation_sheet(generator: ImageGenerator, rows: int, seed: int, class_id: int | None) -> Images:
    """The same latents in each row, from the average of all w on the left to no truncation on the right."""
    latents = generator.latents(rows, seed)
    columns = [generator.images(generator.styles(latents, class_id, psi)) for psi in TRUNCATIONS]
    return image_grid(np.stack(columns, 1).reshape(-1, *columns[0].shape[1:]), len(TRUNCATIONS))


def film(
    generator: ImageGenerator, path: Path, frames: int, seed: int, what: tuple[int | None, float] = (None, 1.0)
) -> Path:
    """Writes an endless film: nine images that move through w, from one random point to the next.

    Args:
        generator: makes the frames.
        path: .gif, .webp, or .png for an animated PNG.
        frames: in all.
        seed: of the points.
        what: their class, and how far they are truncated.

    Raises:
        ConfigError: another kind of file.
    """
    kind = _FILM_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"a film is written as {', '.join(_FILM_FORMATS)}, got {path.name!r}")
    # A second from one point to the next, at twenty frames a second.
    stops, tiles = max(2, frames // 20), 9
    points = generator.styles(generator.latents(stops * tiles, seed), *what)
    points = points.reshape(stops, tiles, *points.shape[1:])
    sheets = []
    for frame in range(frames):
        # The last point leads back to the first, so that the film has no beginning.
        where = frame * stops / frames
        stop, share = int(where), where - int(where)
        eased = np.float32(share * share * (3 - 2 * share))  # no jerk at the stops
        styles = points[stop] + eased * (points[(stop + 1) % stops] - points[stop])
        sheets.append(Image.fromarray(image_grid(generator.images(styles), 3)))
    save = partial(sheets[0].save, format=kind, save_all=True, append_images=sheets[1:], duration=50, loop=0)
    return write_atomic_with(path, save)


def latent_path(generator: ImageGenerator, steps: int, seed: int, class_id: int | None) -> Images:
    """The way between two latents through z (above, along the sphere) and through w (below, straight)."""
    ends = generator.latents(2, seed)
    shares = np.linspace(0, 1, steps)[:, None]
    through_z = generator.styles(slerp(ends[:1], ends[1:], shares).astype(np.float32), class_id)
    w = generator.styles(ends, class_id)
    # Straight, as w has no shape that a line could leave.
    through_w = w[:1] + shares[:, :, None].astype(np.float32) * (w[1:] - w[:1])
    return image_grid([*generator.images(through_z), *generator.images(through_w)], steps)


def nearest_sheet(made: Images, nearest: Sequence[Images]) -> Images:
    """Each made image on the left, and the real ones nearest to it, to see whether it was learned by heart."""
    tiles = [tile for image, others in zip(made, nearest, strict=True) for tile in (image, *others)]
    return image_grid(tiles, 1 + len(nearest[0]))


def save_sheet(sheet: Images, path: Path, scale: int = 1) -> Path:
    """Writes a sheet as PNG, its pixels enlarged ``scale`` times; returns its path."""
    image = Image.fromarray(sheet)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return write_atomic_with(path, partial(image.save, format="png"))
