"""Folders of images: PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE, each image a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..kernels.checks import in_one_line, shown

if TYPE_CHECKING:
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that starts another program, as PostScript does
_SPLITS = ("train", "test")
_COLOURS = ("1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "PA", "La", "RGBa", "CMYK", "YCbCr", "HSV")
_GREY = ("1", "L", "LA", "La", "I", "F")
_BITS, _INTERPRETATION = 258, 262  # tags of TIFF


def read_folder(
    path: Path, split: str, choose: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (n, height, width, 3) uint8, labels (n,) and the names of the classes.

    Args:
        path: the folder that holds a folder for each split, and in it one for each class. Classes are numbered over
            both splits, in the order of their names, so that a label means the same in both.
        split: "train" or "test".
        choose: from the number of images to the indices of those that are read.

    Raises:
        ValueError: a folder or image that is missing or cannot be read, images of more than one size or of more
            pixels than Pillow lets pass (89 million), a class without an image in this split, two classes of a split
            that are links to one folder.

    Files count as images by their endings (jpg, png, ppm, pgm, bmp, tif, webp); what is hidden (.name), or __MACOSX
    that a zip file leaves, does not count, and an image reached twice through links counts once. Grey, palette and CMYK
    images become RGB; of transparent ones the colours are taken as they are stored, without regard to what is
    transparent; of several pages the first. 16 bit grey is brought to 8 bits by its range; images of 32 bit integers or
    of floats, which state no range, are refused.
    """
    if not os.path.isdir(path / split):  # false, too, of a path too long
        raise ValueError(f"name: there is no folder {shown(path / split)}")
    try:
        classes = _classes(path)
        files = _files(path / split, classes)
    except OSError as error:
        raise ValueError(f"name: cannot read {shown(path)}: {in_one_line(error.strerror)}") from error
    images, labels = [], []
    for index in choose(len(files)):
        file, label = files[index]
        images.append(_pixels(file))
        labels.append(label)
        if images[-1].shape != images[0].shape:
            sizes = f"{images[0].shape[:2]} and, of {shown(file)}, {images[-1].shape[:2]}"
            raise ValueError(f"name: expected images of one size, got {sizes}")
    return np.stack(images), np.array(labels), classes


def _classes(path: Path) -> tuple[str, ...]:
    """The folders of all splits, but those that lead back to where they lie, or to the other split."""
    names, above = set(), _above(path)
    for split in filter(os.path.isdir, (path / split for split in _SPLITS)):
        seen = {}
        for name in sorted(name for name in os.listdir(split) if os.path.isdir(split / name) and not _hidden(name)):
            real = os.path.realpath(split / name)
            other = seen.setdefault(real, name)
            if other != name and real not in above:
                both = " and ".join(in_one_line(repr(one), 50) for one in (other, name))
                raise ValueError(f"name: expected a folder for each class, got one for {both} in {shown(split)}")
        names |= {name for real, name in seen.items() if real not in above}
    return tuple(sorted(names))


def _hidden(name: str) -> bool:
    """Whether it is none of the images or classes, but of the system that made the folder."""
    return name.startswith(".") or name == "__MACOSX"


def _above(path: Path) -> set[str]:
    """The folders of both splits, and those that hold them: no link into them leads to a class."""
    real = Path(os.path.realpath(path))
    return {*map(str, (real, *real.parents)), *(os.path.realpath(path / split) for split in _SPLITS)}


def _files(path: Path, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """The images of a split and their labels, in the order of their names."""
    found = []
    folders = {name: path / name for name in classes if os.path.isdir(path / name)}
    if not folders:
        raise ValueError(f"name: could not find any class, a folder, in {shown(path)}")
    for name, folder in folders.items():
        others = {os.path.realpath(other) for other in folders.values()}
        images = images_below(folder, walked=_above(path.parent) | others)
        if not images:
            raise ValueError(f"name: expected an image in {shown(folder)}, got none that ends as {', '.join(_ENDINGS)}")
        found += [(image, classes.index(name)) for image in images]
    return found


def images_below(folder: str | Path, walked: set[str]) -> list[str]:
    """The images under a folder, each once; no folder in `walked`, nor one that holds this, is gone into by a link."""
    walked, found = {*walked, *map(str, Path(os.path.realpath(folder)).parents)}, []
    for root, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders)}
        folders[:] = [name for name in real if not _hidden(name) and real[name] not in walked]
        walked |= {real[name] for name in folders}
        found += [(root, name) for name in names if name.lower().endswith(_ENDINGS) and not _hidden(name)]
    images, roots = {}, {root: os.path.realpath(root) for root, _ in found}
    for root, name in sorted(found):
        path = os.path.join(root, name)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(roots[root], name)
        images.setdefault(real, path)
    return list(images.values())


def _pixels(file: str) -> np.ndarray:
    """One image (height, width, 3) uint8."""
    with opened(file) as image:
        return in_colour(image)


@contextmanager
def opened(file: str) -> Generator[Image.Image]:
    """An image file; what cannot be read of it, in here or within, is refused by its name."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"name: folders of images need Pillow, which cannot be imported: {error}") from error
    if not os.path.isfile(file):
        raise ValueError(f"name: {shown(file)} cannot be read: it is a link to nowhere, or no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                yield image
    except Exception as error:  # a damaged image raises many kinds of error
        raise ValueError(f"name: {shown(file)} cannot be read: {in_one_line(error)}") from error


def is_grey(image: Image.Image) -> bool:
    """Whether an image, of which nothing but the header is read, has no colours."""
    return image.mode in _GREY or image.mode.startswith("I;16")


def in_colour(image: Image.Image) -> np.ndarray:
    """Its pixels (height, width, 3) uint8."""
    if image.mode in _COLOURS:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.format == "TIFF":  # twelve bits in sixteen, or white as zero, would come out darker or as a negative
        tags = cast("TiffImageFile", image).tag_v2  # which is what opens a TIFF
        sixteen = sixteen and tags.get(_BITS) == (16,) and tags.get(_INTERPRETATION) == 1
    if not sixteen:
        raise ValueError(f"pixels of the kind {image.mode!r} state no range; save it in 8 or 16 bits")
    grey = (np.asarray(image).astype(np.int64) + 128) // 257  # 65535 becomes 255
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
