"""Images with labels, from the file in data/ or from your own."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import as_whole, came, form_of, has_rows, in_one_line, is_count, require_known, shown
from ..making.checkout import PROJECT, require_checkout
from .folders import read_folder

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, ImageNet

_DATA = PROJECT / "data"
_FASHION_MNIST_CONTENTS = {  # sha256 of shape, images and labels
    "train": "30dbfae5aa8193b7a10fd185b279f0d990f14c41368ad0a324c2c2300c1d5c1e",
    "test": "31f656d43529baa045916ac6ce5e3b374968b3185ea991af67108481546e51da",
}
_KINDS = ("fashion-mnist", "cifar10", "imagenet", "folder:PATH", "npz:PATH")
_LARGEST = 8 * 2**30  # bytes of one split in a NumPy file
_LONGEST = 80  # characters of a name that is shown whole


@dataclass(frozen=True)
class Dataset:
    """Images in memory.

    Attributes:
        images: (n, height, width, channels) uint8.
        labels: (n,) int64; whole numbers of any other type are converted.
        classes: the name of each label.
        source: the data set's name and a checksum of these very images and labels.

    Raises:
        ValueError: an attribute of another form, or another number of labels than of images.

    Example:
        >>> images = torch.zeros(4, 8, 8, 1, dtype=torch.uint8)
        >>> dataset = Dataset(images, torch.tensor([0, 0, 1, 1]), ("cat", "dog"), "mine")
        >>> len(dataset), dataset.part(2).labels
        (4, tensor([0, 1]))
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        images, labels = _as_images(self.images), as_whole(self.labels, "labels", what="whole numbers (n,)")
        if len(labels) != len(images):
            raise ValueError(f"labels: expected {len(images)}, one for each of images, got {len(labels)}")
        if not isinstance(self.classes, (tuple, list)) or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes: expected a name for each label, got {came(self.classes)}")
        if not isinstance(self.source, str):
            raise ValueError(f"source: expected text, got {type(self.source).__name__}")
        for attribute, value in (("images", images), ("labels", labels), ("classes", tuple(self.classes))):
            object.__setattr__(self, attribute, value)

    def __len__(self) -> int:
        return len(self.images)

    def part(self, limit: int) -> Dataset:
        """This many of the images, spread evenly, or all if there are fewer; its source tells of what it is a part.

        Raises:
            ValueError: limit below 1, or no whole number.
        """
        kept = torch.from_numpy(_spread(len(self), limit))
        source = f"{self.source}, {len(kept)} of {len(self)}"
        return replace(self, images=self.images[kept], labels=self.labels[kept], source=source)


def load_dataset(name: str, *, split: str = "train", limit: int | None = None) -> Dataset:
    """One split of a data set; nothing is downloaded.

    Args:
        name: "fashion-mnist" (in the repository: 20,000 training and 10,000 test images, its checksum verified);
            "npz:PATH", a NumPy file with train_images (n, height, width, channels) uint8, train_labels, test_images,
            test_labels and classes (text or its bytes in UTF-8), a split of at most 8 GiB unpacked; "folder:PATH" with
            PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE, all images of one size, classes numbered over both splits
            (16 bit grey becomes 8 bit by its range, colours of transparent pixels are taken as stored, hidden files and
            second links to an image do not count, second links to a class are refused); "cifar10" and "imagenet" in
            torchvision's layout under the folder named by CONVERGENT_DATA (ImageNet is resized to 256 and cropped to
            224; its "test" is the validation set).
        split: "train" or "test".
        limit: keep this many images, spread evenly over the split, so that sorted files keep all their classes.

    Raises:
        ValueError: unknown name or split, a file that is missing, altered or of another form.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> mine = {"test_images": np.zeros((8, 28, 28, 1), np.uint8), "test_labels": np.arange(8) % 2}
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", **mine, classes=["dark", "light"])
        ...     load_dataset(f"npz:{folder}/mine.npz", split="test", limit=5).images.shape
        torch.Size([5, 28, 28, 1])
    """
    require_known(split, ("train", "test"), "split")
    _require_positive(limit)
    kind, path = _kind_and_path(name)
    if kind == "folder":
        return _dataset(*read_folder(path, split, partial(_spread, limit=limit)), kind)
    if kind in ("cifar10", "imagenet"):
        return _dataset(*_from_torchvision(_torchvision_dataset(kind, split), limit), kind)
    images, labels, classes = _read_npz(path, split)
    if kind == "fashion-mnist" and _checksum(images, labels) != _FASHION_MNIST_CONTENTS[split]:
        raise ValueError(f"name: {shown(path)} is altered; restore it from the repository")
    kept = _spread(len(images), limit)
    return _dataset(images[kept], labels[kept], classes, kind)


def absolute_name(name: str) -> str:
    """`name` with a relative path resolved against the current folder, so that it means the same anywhere."""
    kind, colon, path = _text(name).partition(":")
    return f"{kind}:{_expanded(path).resolve()}" if colon else name


def normalise(images: Tensor) -> Tensor:
    """Images (n, height, width, channels) uint8 as network input (n, channels, height, width) float32 in [-1, 1].

    Raises:
        ValueError: images of another shape or type.

    Example:
        >>> normalise(torch.tensor([[0], [255]], dtype=torch.uint8).reshape(1, 1, 2, 1))
        tensor([[[[-1.,  1.]]]])
    """
    return _as_images(images).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def _kind_and_path(name: str) -> tuple[str, Path]:
    """What kind of data set is named, and where it lies if that is told."""
    kind, colon, path = _text(name).partition(":")
    if kind in ("npz", "folder") and colon:
        if not path:
            raise ValueError(f"name: put the path of your own data in the place of PATH in {kind}:PATH")
        return kind, _expanded(path)
    if colon or name not in _KINDS:
        require_known(name if len(name) < _LONGEST else shown(name), _KINDS, "name")
    path = _DATA / "fashion-mnist.npz"
    if name == "fashion-mnist" and not path.exists():
        require_checkout("name: fashion-mnist")
    return kind, path


def _text(name: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"name: expected text such as 'npz:my-images.npz', got {came(name)}")
    if "\0" in name:
        raise ValueError("name: expected text without a NUL character, got one")
    return name


def _expanded(path: str) -> Path:
    try:
        os.fsencode(path)
        return Path(path).expanduser()
    except (RuntimeError, UnicodeError) as error:  # ~somebody, and there is no such user; no character of a path
        raise ValueError(f"name: {shown(path)}: {in_one_line(error)}") from error


def _as_images(images: Tensor) -> Tensor:
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and not np.ma.is_masked(images):
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or not has_rows(images):
        raise ValueError(f"images: expected (n, height, width, channels) uint8, got {form_of(images)}")
    return images


def _dataset(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], kind: str) -> Dataset:
    source = f"{kind}@{_checksum(images, labels)[:16]}"
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), classes, source)


def _spread(available: int, limit: int | None) -> np.ndarray:
    """Indices of `limit` evenly spread images, or of all."""
    _require_positive(limit)
    count = available if limit is None else min(limit, available)
    return np.linspace(0, available - 1, count).round().astype(np.int64)


def _require_positive(limit: int | None) -> None:
    if limit is not None and not (is_count(limit) and limit >= 1):
        raise ValueError(f"limit: expected a positive number of images, got {came(limit)}")


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels.astype(np.int64)).data)
    return digest.hexdigest()


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if not os.path.isfile(path):  # false, too, of a path too long
        raise ValueError(f"name: there is no file {shown(path)}")
    try:
        _require_size(path, split)
        with np.load(path, allow_pickle=False) as file:
            images, labels = file[f"{split}_images"], file[f"{split}_labels"]
            classes = tuple(_name_of(label) for label in file["classes"])
    except Exception as error:  # a damaged zip file raises many kinds of error
        raise ValueError(f"name: cannot read {shown(path)}: {in_one_line(error)}") from error
    if images.ndim != 4 or images.dtype != np.uint8 or labels.shape != (len(images),) or 0 in images.shape:
        expected, given = "images (n, height, width, channels) uint8 with n labels", f"{images.shape} {images.dtype}"
        raise ValueError(f"name: {shown(path)}: expected {expected}, got {given} and {labels.shape}")
    given = str(labels.dtype)
    if labels.dtype.kind in "iub":
        given = f"{labels.min()} to {labels.max()}"
    if labels.dtype.kind not in "iub" or not 0 <= labels.min() <= labels.max() < len(classes):
        expected = f"whole labels of {len(classes)} classes, from 0 on"
        raise ValueError(f"name: {shown(path)}: expected {expected}, got {given}")
    return images, labels, classes


def _name_of(label: np.generic) -> str:
    """The name of a class, from text or its bytes, or a number."""
    if isinstance(label, bytes):
        return label.decode()
    if not isinstance(label, (str, np.number)):
        raise ValueError(f"expected classes, text (n,), got {form_of(label)}")
    return str(label)


def _require_size(path: Path, split: str) -> None:
    """What the file says of the size of the arrays that are read, before any of them is."""
    wanted = {f"{split}_images.npy", f"{split}_labels.npy", "classes.npy"}
    with zipfile.ZipFile(path) as file:
        size = sum(item.file_size for item in file.infolist() if item.filename in wanted)
    if size > _LARGEST:
        raise ValueError(f"it holds {size / 2**30:.1f} GiB for {split}; at most {_LARGEST / 2**30:g} are read")


def _torchvision_dataset(kind: str, split: str) -> CIFAR10 | ImageNet:
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise ValueError(f"name: {kind} needs torchvision, which cannot be imported: {in_one_line(error)}") from error
    root = os.environ.get("CONVERGENT_DATA", str(_DATA))
    try:
        if kind == "cifar10":
            return datasets.CIFAR10(root, train=split == "train", download=False)
        crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
        return datasets.ImageNet(root, split="train" if split == "train" else "val", transform=crop)
    except (RuntimeError, OSError) as error:
        message = f"name: no {kind} under {shown(root)}; name the folder that holds it in CONVERGENT_DATA"
        raise ValueError(f"{message} ({in_one_line(error, 80)})") from error


def _from_torchvision(found: CIFAR10 | ImageNet, limit: int | None) -> tuple[np.ndarray, np.ndarray, tuple]:
    """The images that are kept, and no other."""
    images, labels = [], []
    for index in _spread(len(found), limit):
        try:
            image, label = found[int(index)]
        except OSError as error:
            samples = getattr(found, "samples", None)
            path = f"image {index}" if samples is None else samples[int(index)][0]
            raise ValueError(f"name: {shown(path)} cannot be read: {in_one_line(error)}") from error
        images.append(np.asarray(image.convert("RGB")))
        labels.append(label)
    classes = tuple(label if isinstance(label, str) else label[0] for label in found.classes)
    return np.stack(images), np.array(labels), classes
