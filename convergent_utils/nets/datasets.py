"""Images with labels, from the file in data/ or from your own."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import require_known

_DATA = Path(__file__).parents[2] / "data"
_FASHION_MNIST_CONTENTS = {  # sha256 of shape, images and labels
    "train": "30dbfae5aa8193b7a10fd185b279f0d990f14c41368ad0a324c2c2300c1d5c1e",
    "test": "31f656d43529baa045916ac6ce5e3b374968b3185ea991af67108481546e51da",
}
_KINDS = ("fashion-mnist", "cifar10", "imagenet", "folder:PATH", "npz:PATH")


@dataclass(frozen=True)
class Dataset:
    """Images in memory.

    Attributes:
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        classes: the name of each label.
        source: the data set's name and a checksum of these very images and labels.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def part(self, limit: int) -> Dataset:
        """This many of the images, spread evenly, or all if there are fewer; its source tells of what it is a part.

        Raises:
            ValueError: limit below 1.
        """
        kept = torch.from_numpy(_spread(len(self), limit))
        source = f"{self.source}, {len(kept)} of {len(self)}"
        return replace(self, images=self.images[kept], labels=self.labels[kept], source=source)


def load_dataset(name: str, *, split: str = "train", limit: int | None = None) -> Dataset:
    """One split of a data set; nothing is downloaded.

    Args:
        name: "fashion-mnist" (in the repository: 20,000 training and 10,000 test images, its checksum verified);
            "npz:PATH", a NumPy file with train_images (n, height, width, channels) uint8, train_labels, test_images,
            test_labels and classes; "folder:PATH" with PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE, all images of
            one size; "cifar10" and "imagenet" in torchvision's layout under the folder named by CONVERGENT_DATA
            (ImageNet is resized to 256 and cropped to 224; its "test" is the validation set).
        split: "train" or "test".
        limit: keep this many images, spread evenly over the split, so that sorted files keep all their classes.

    Raises:
        ValueError: unknown name or split, a file that is missing, altered or of another form.
    """
    require_known(split, ("train", "test"), "split")
    _require_positive(limit)
    kind, _, path = name.partition(":")
    if kind == "fashion-mnist":
        images, labels, classes = _read_npz(_DATA / "fashion-mnist.npz", split)
        if _checksum(images, labels) != _FASHION_MNIST_CONTENTS[split]:
            raise ValueError(f"name: {_DATA / 'fashion-mnist.npz'} is altered; restore it from the repository")
    elif kind == "npz" and path:
        images, labels, classes = _read_npz(Path(path), split)
    elif kind == "folder" and path:
        return _from_torchvision(_image_folder(Path(path) / split), kind, limit)
    elif kind in ("cifar10", "imagenet"):
        return _from_torchvision(_torchvision_dataset(kind, split), kind, limit)
    else:
        require_known(name, _KINDS, "name")
        raise ValueError(f"name: put the path of your own data in the place of PATH in {name!r}")
    kept = _spread(len(images), limit)
    return _dataset(images[kept], labels[kept], classes, kind)


def absolute_name(name: str) -> str:
    """`name` with a relative path resolved against the current folder, so that it means the same anywhere."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{Path(path).expanduser().resolve()}" if colon else name


def normalise(images: Tensor) -> Tensor:
    """Images (n, height, width, channels) uint8 as network input (n, channels, height, width) float32 in [-1, 1].

    Raises:
        ValueError: images of another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        came = f"{tuple(images.shape)} {images.dtype}"
        raise ValueError(f"images: expected (n, height, width, channels) uint8, got {came}")
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def _dataset(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], kind: str) -> Dataset:
    source = f"{kind}@{_checksum(images, labels)[:16]}"
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), classes, source)


def _spread(available: int, limit: int | None) -> np.ndarray:
    """Indices of `limit` evenly spread images, or of all."""
    _require_positive(limit)
    count = available if limit is None else min(limit, available)
    return np.linspace(0, available - 1, count).round().astype(np.int64)


def _require_positive(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected a positive number of images, got {limit}")


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels.astype(np.int64)))
    return digest.hexdigest()


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if not path.is_file():
        raise ValueError(f"name: there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file[f"{split}_images"], file[f"{split}_labels"]
            classes = tuple(str(label) for label in file["classes"])
    except Exception as error:  # a damaged zip file raises many kinds of error
        raise ValueError(f"name: cannot read {path}: {error}") from error
    if images.ndim != 4 or images.dtype != np.uint8 or labels.shape != (len(images),):
        came = f"{images.shape} {images.dtype} and {labels.shape}"
        raise ValueError(f"name: {path}: expected images (n, height, width, channels) uint8 with n labels, got {came}")
    came = str(labels.dtype)
    if labels.dtype.kind in "iub" and len(labels):
        came = f"{labels.min()} to {labels.max()}"
    if labels.dtype.kind not in "iub" or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
        raise ValueError(f"name: {path}: expected whole labels of {len(classes)} classes, from 0 on, got {came}")
    return images, labels, classes


def _image_folder(path: Path) -> torch.utils.data.Dataset:
    from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise ValueError(f"name: there is no folder {path}")
    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:  # no class, or one without an image
        raise ValueError(f"name: {path}: {error}") from error


def _torchvision_dataset(kind: str, split: str) -> torch.utils.data.Dataset:
    from torchvision import datasets, transforms

    root = os.environ.get("CONVERGENT_DATA", str(_DATA))
    try:
        if kind == "cifar10":
            return datasets.CIFAR10(root, train=split == "train", download=False)
        crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
        return datasets.ImageNet(root, split="train" if split == "train" else "val", transform=crop)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"name: no {kind} under {root}; name the folder that holds it in CONVERGENT_DATA ({error})"
        ) from error


def _from_torchvision(found: torch.utils.data.Dataset, kind: str, limit: int | None) -> Dataset:
    """Read the images that are kept, and no other, into memory."""
    images, labels = [], []
    for index in _spread(len(found), limit):
        try:
            image, label = found[int(index)]
            images.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            path = found.samples[int(index)][0] if hasattr(found, "samples") else f"image {index}"
            raise ValueError(f"name: {path} cannot be read: {error}") from error
        labels.append(label)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"name: expected images of one size, got {len(shapes)} sizes, {' and '.join(map(str, list(shapes)[:2]))}"
        )
    classes = tuple(label if isinstance(label, str) else label[0] for label in found.classes)
    return _dataset(np.stack(images), np.array(labels), classes, kind)
