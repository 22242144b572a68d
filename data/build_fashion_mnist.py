"""Build data/fashion-mnist.npz, the data set that the paper runs on, from the four original files.

    python data/build_fashion_mnist.py FOLDER

FOLDER holds the original `*-ubyte.gz` files: from https://github.com/zalandoresearch/fashion-mnist,
or from Debian's package dataset-fashion-mnist, which puts them in /usr/share/datasets/fashion-mnist.
The draw is class-balanced with a fixed seed, so the same originals always give the same file.
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

SEED, TRAIN_PER_CLASS, TEST_PER_CLASS = 20161124, 2000, 1000
CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
SHA256_OF_DECOMPRESSED_ORIGINALS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_original(folder: Path, name: str) -> np.ndarray:
    """One original file as an array, its checksum verified."""
    raw = gzip.decompress((folder / f"{name}.gz").read_bytes())
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256_OF_DECOMPRESSED_ORIGINALS[name]:
        raise SystemExit(f"{folder / name}.gz is not the original: sha256 {found}")
    dimensions = raw[3]  # the fourth byte of the idx format counts the dimensions, a big-endian int32 each
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def balanced_draw(labels: np.ndarray, per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` random images of each class, in their original order."""
    drawn = [generator.choice(np.flatnonzero(labels == k), per_class, replace=False) for k in range(len(CLASSES))]
    return np.sort(np.concatenate(drawn))


def main() -> None:
    """Read, draw, write."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    generator, arrays = np.random.default_rng(SEED), {"classes": np.array(CLASSES)}
    for split, prefix, per_class in (("train", "train", TRAIN_PER_CLASS), ("test", "t10k", TEST_PER_CLASS)):
        images = read_original(Path(sys.argv[1]), f"{prefix}-images-idx3-ubyte")
        labels = read_original(Path(sys.argv[1]), f"{prefix}-labels-idx1-ubyte")
        kept = balanced_draw(labels, per_class, generator)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[kept][..., None], labels[kept].astype(np.int64)
    path = Path(__file__).with_name("fashion-mnist.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
