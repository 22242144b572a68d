"""What networks are shown, by name: pictures, texts, anybody's batches, or activations that were saved."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as AnyDataset

from ..kernels.checks import as_count, as_list, came, form_of, in_one_line, is_count, require_known, shown
from ..nets.datasets import Dataset, load_dataset
from ..nets.folders import images_below, in_colour, is_grey, opened
from .batches import are_texts, input_at, kind_of, n_inputs, part
from .named import function_named, refused, seeded
from .saved import SavedRows, saved_rows

_DATASETS = ("fashion-mnist", "cifar10", "imagenet")
_KINDS = ("folder:PATH", "npz:PATH", *_DATASETS, "text:FILE", "acts:FILE", "module:function")
_ARRAYS = ("test_images", "images")
_BATCH = 128


@dataclass(frozen=True)
class Inputs:
    """Batches of inputs, and what they are.

    Attributes:
        batches: can be gone through again and again: uint8 tensors (n, height, width, channels) of pictures, lists of
            texts, dicts of saved activations by layer, or whatever a function's iterable yields.
        kind: "pictures", "texts", "activations" or "other".
        description: in one line, what they are, and whence.
        length: how many inputs there are; None where that is not known before they are read.
        layers: of saved activations the type of each layer; of all else none.
    """

    batches: Iterable[object]
    kind: str
    description: str
    length: int | None
    layers: Mapping[str, torch.dtype] = field(default_factory=dict)

    def shown(self, numbers: Iterable[int]) -> dict[int, object]:
        """The raw inputs of these running numbers, to be shown; no more is read than is needed.

        Returns:
            By number, pictures as uint8 arrays (height, width, channels), texts as text, others as they are.

        Raises:
            ValueError: a number that no input has.
        """
        wanted = as_list(numbers, "numbers", "running numbers of inputs")
        for number in wanted:
            if not is_count(number) or number < 0 or (self.length is not None and number >= self.length):
                what = "inputs" if self.length is None else f"{self.length} inputs"
                raise ValueError(f"numbers: expected running numbers of {what}, from 0 on, got {came(number, 60)}")
        found = self._at(sorted({int(number) for number in wanted}))
        return {int(number): _as_shown(found[int(number)]) for number in wanted}

    def _at(self, numbers: list[int]) -> dict[int, object]:
        if isinstance(self.batches, _Batches):
            return {number: input_at(self.batches.at([number]), 0) for number in numbers}
        found, first, waiting = {}, 0, list(numbers)
        for batch in self.batches if waiting else ():
            size = n_inputs(batch)
            while waiting and waiting[0] < first + size:
                number = waiting.pop(0)
                found[number] = input_at(batch, number - first)
            first += size
            if not waiting:
                return found
        if waiting:
            raise ValueError(f"numbers: expected running numbers of {first} inputs, got {waiting[0]}")
        return found


def load_inputs(name: str, *, limit: int | None = None, size: int | None = None, batch: int = _BATCH) -> Inputs:
    """The inputs that a name stands for; nothing is downloaded.

    Args:
        name: one of

            - "folder:PATH": all pictures below a folder, however deep, in the order of their paths, read batch by
              batch. Grey pictures stay grey where all are. What is hidden does not count.
            - "npz:PATH": `test_images`, or `images`, of a NumPy file, (n, height, width, channels) uint8;
            - "fashion-mnist", "cifar10", "imagenet": test images, as `load_dataset` finds them;
            - "text:FILE": one text a line, in UTF-8; empty lines do not count;
            - "module:function", or "path/to/file.py:function": what a function returns, called without arguments: an
              iterable of batches, as a DataLoader; pictures, texts, a Dataset. Where it can be gone through once only,
              as a generator, the function is called again each time. What it draws by torch before it returns is the
              same each time; what a generator draws later must have a seed of its own;
            - "acts:FILE": saved activations of one or several layers, see `saved_rows`.
        limit: this many inputs, spread evenly over pictures and texts; of a function's, and of activations, the first.
        size: shorter sides of pictures are brought to this, and the middle is cut out. None: as they are, all of one
            size. Not for a function's.
        batch: inputs at once; batches that a function makes are as they are.

    Raises:
        ValueError: anything that is wrong with the name, or with what it stands for.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"name: expected the name of data, one of {', '.join(_KINDS)}, got {came(name, 40)}")
    limit = None if limit is None else as_count(limit, "limit", what=" of inputs")
    size = None if size is None else as_count(size, "size", at_most=2**15, what=" pixels")
    batch = as_count(batch, "batch", what=" of inputs at once")
    kind, colon, path = name.partition(":")
    if size is not None and (kind in ("text", "acts") or (colon and kind not in ("folder", "npz"))):
        raise ValueError(f"size: only pictures of folder:, npz: and data sets are brought to a size, not {came(name)}")
    if not colon or kind in ("folder", "npz", "text", "acts"):
        if colon and not path:
            raise ValueError(f"name: put a path after {name}, as in {kind}:PATH")
        if not colon:
            require_known(name, _KINDS, "name")
            path = name
        read = {"folder": _folder, "npz": _npz, "text": _text, "acts": _acts}.get(kind, _dataset)
        return read(os.path.expanduser(path), limit, size, batch)
    return _of_function(name, limit, batch)


@dataclass(frozen=True)
class _Batches:
    """Some of a row of inputs, batch by batch.

    Attributes:
        read: from places in the row to the inputs there, as one batch.
        places: of those that are kept.
        batch: how many at once.
    """

    read: Callable[[Sequence[int]], object]
    places: Sequence[int]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch)

    def __iter__(self) -> Iterator[object]:
        for start in range(0, len(self.places), self.batch):
            yield self.read(self.places[start : start + self.batch])

    def at(self, numbers: Sequence[int]) -> object:
        """A batch of the inputs of these running numbers."""
        return self.read([self.places[number] for number in numbers])


@dataclass(frozen=True)
class _Pictures:
    """Files of pictures, all grey or all made colour, of one size or brought to one."""

    files: Sequence[str]
    grey: bool
    size: int | None

    def __call__(self, places: Sequence[int]) -> Tensor:
        """Those at some places (n, height, width, channels) uint8."""
        pixels = []
        for place in places:
            with opened(self.files[place]) as image:
                pixels.append(resized(in_colour(image), self.size)[:, :, : 1 if self.grey else 3])
        return torch.from_numpy(np.stack(pixels))


@dataclass(frozen=True)
class _Rows:
    """Pictures in memory, or texts."""

    values: np.ndarray | Tensor | Sequence[str]
    size: int | None = None

    def __call__(self, places: Sequence[int]) -> object:
        """Those at some places."""
        if isinstance(self.values, Tensor):
            return self.values[torch.as_tensor(places)]
        if not isinstance(self.values, np.ndarray):
            return [self.values[place] for place in places]
        pixels = self.values[places]
        if self.size is not None:
            pixels = np.stack([resized(each, self.size) for each in pixels])
        return torch.from_numpy(np.ascontiguousarray(pixels))


class _Again:
    """An iterable of which the first inputs are taken, made anew each time where it can be gone through once only."""

    def __init__(self, made: Iterable, make: Callable[[], Iterable], limit: int | None):
        self.made, self.make, self.limit = made, make, limit

    def __iter__(self) -> Iterator[object]:
        made, left = self.made, sys.maxsize if self.limit is None else self.limit
        if isinstance(made, Iterator):
            made = self.make()
            if made is self.made:
                raise ValueError(
                    "name: the function returns one and the same iterator each time; let it make a new one"
                )
        for batch in made:
            size = n_inputs(batch)
            yield batch if size <= left else part(batch, left, size)
            left -= size
            if left <= 0:
                return


def resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """A picture (height, width, channels) whose shorter side is brought to a size, and the middle cut out."""
    if size is None:
        return pixels
    from PIL import Image

    height, width = pixels.shape[:2]
    tall, wide = (max(size, round(side * size / min(height, width))) for side in (height, width))
    top, left = (tall - size) // 2, (wide - size) // 2
    planes = (Image.fromarray(pixels[:, :, k]) for k in range(pixels.shape[2]))  # whatever channels there are
    brought = [np.asarray(plane.resize((wide, tall), Image.Resampling.BILINEAR)) for plane in planes]
    return np.stack(brought, axis=2)[top : top + size, left : left + size]


def _folder(path: str, limit: int | None, size: int | None, batch: int) -> Inputs:
    if not os.path.isdir(path):
        raise ValueError(f"name: there is no folder {shown(path)}")
    files = sorted(images_below(path, walked=set()))
    if not files:
        raise ValueError(f"name: {shown(path)} holds no picture, such as a file that ends in .png or .jpg")
    places, forms = _spread(len(files), limit), set()
    for place in places:
        with opened(files[place]) as image:
            grey, sides = is_grey(image), image.size
        forms.add((grey, sides if size is None else None))
        if len({sides for _, sides in forms}) > 1:
            both = " and ".join(f"{wide} x {tall}" for wide, tall in sorted({sides for _, sides in forms}))
            raise ValueError(f"name: {shown(files[place])} is of another size than those before ({both}); give a size")
    grey = all(grey for grey, _ in forms)
    said = f"{len(places)} of {len(files)} {'grey' if grey else 'colour'} pictures in {shown(path)}"
    return _inputs(_Pictures(files, grey, size), places, batch, "pictures", said, size)


def _npz(path: str, limit: int | None, size: int | None, batch: int) -> Inputs:
    if not os.path.isfile(path):
        raise ValueError(f"name: there is no file {shown(path)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            known = list(file) if isinstance(file, np.lib.npyio.NpzFile) else []
            images = next((file[key] for key in _ARRAYS if key in known), None)
    except Exception as error:  # a damaged zip file raises many kinds of error, and says little
        raise ValueError(f"name: {shown(path)} is no file .npz of numbers as np.savez writes it, or damaged") from error
    if images is None:
        said = f"no array {' or '.join(_ARRAYS)}, but {in_one_line(', '.join(known) or 'none by name', 80)}"
        raise ValueError(f"name: {shown(path, 80)} holds {said}")
    if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:
        expected = "pictures (n, height, width, channels) uint8"
        raise ValueError(f"name: {shown(path, 80)}: expected {expected}, got {form_of(images)}")
    return _of_array(images, limit, size, batch, shown(path))


def _dataset(name: str, limit: int | None, size: int | None, batch: int) -> Inputs:
    data = load_dataset(name, split="test", limit=limit)
    return _of_array(data.images.numpy(), None, size, batch, f"the test images of {data.source}")


def _of_array(images: np.ndarray, limit: int | None, size: int | None, batch: int, where: str) -> Inputs:
    places = _spread(len(images), limit)
    said = f"{len(places)} of {len(images)} pictures in {where}"
    return _inputs(_Rows(images, size), places, batch, "pictures", said, size)


def _text(path: str, limit: int | None, _: int | None, batch: int) -> Inputs:
    if not os.path.isfile(path):
        raise ValueError(f"name: there is no file {shown(path)}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            texts = [line.removesuffix("\n") for line in file if line.strip()]
    except (OSError, UnicodeError) as error:
        raise refused(error, f"cannot read {shown(path, 80)} as text in UTF-8") from error
    if not texts:
        raise ValueError(f"name: {shown(path)} holds no text; write one in each line")
    places = _spread(len(texts), limit)
    return _inputs(_Rows(texts), places, batch, "texts", f"{len(places)} of {len(texts)} lines of {shown(path)}")


def _acts(path: str, limit: int | None, _: int | None, batch: int) -> Inputs:
    rows = saved_rows(path)
    places = range(len(rows) if limit is None else min(limit, len(rows)))
    said = f"{len(places)} of {len(rows)} saved activations of {len(rows.layers)} layers in {shown(path)}"
    return replace(_inputs(rows, places, batch, "activations", said), layers=rows.layers)


def _inputs(
    read: _Pictures | _Rows | SavedRows, places: Sequence[int], batch: int, kind: str, said: str,
    size: int | None = None,
) -> Inputs:  # fmt: skip
    said += "" if size is None else f", brought to {size} x {size}"
    return Inputs(_Batches(read, places, batch), kind, said, len(places))


@dataclass(frozen=True)
class _Called:
    """Calls somebody's function anew, whose batches come in the same order each time; other processes can have it."""

    function: Callable[[], object]
    name: str
    batch: int

    def __call__(self) -> Iterable:
        """What the function returns, as batches."""
        try:
            made = seeded(self.function, 0)
        except Exception as error:  # whatever somebody's own may raise
            raise refused(error, f"{shown(self.name, 80)} cannot be called") from error
        return _as_batches(made, self.name, self.batch)


def _of_function(name: str, limit: int | None, batch: int) -> Inputs:
    make = _Called(function_named(name, ("folder", "npz", "text", "acts")), name, batch)
    made = make()
    if isinstance(made, _Batches):
        places = made.places if limit is None else made.places[:limit]
        made, length = _Batches(made.read, places, batch), len(places)
    else:
        made, length = _Again(made, make, limit), _length(made)
        length = length if length is None or limit is None else min(limit, length)
    try:
        first = next(iter(made), None)
    except Exception as error:
        raise refused(error, f"{shown(name, 80)} gives no batch") from error
    if first is None or n_inputs(first) == 0:
        raise ValueError(f"name: {shown(name, 80)} returned an iterable without any batch")
    return Inputs(made, kind_of(first), f"inputs of {shown(name)}", length)


def _as_batches(made: object, name: str, batch: int) -> Iterable:
    """What a function returned, as an iterable of batches."""
    made = made.images if isinstance(made, Dataset) else made
    if isinstance(made, (Tensor, np.ndarray)) or (isinstance(made, (list, tuple)) and are_texts(made)):
        return _Batches(_Rows(made), range(len(made)) if np.ndim(made) else (), batch)
    if isinstance(made, AnyDataset):
        made = DataLoader(made, batch_size=batch)
    if isinstance(made, DataLoader) and isinstance(made.sampler, RandomSampler):
        said = "so that inputs differ from pass to pass; make its DataLoader with shuffle=False"
        raise ValueError(f"name: {shown(name, 80)} shuffles, {said}")
    if isinstance(made, (str, bytes, Mapping)) or not isinstance(made, Iterable):
        said = "must return an iterable of batches, as a DataLoader or a list of tensors"
        raise ValueError(f"name: {shown(name, 80)} {said}, got {came(made, 60)}")
    return made


def _length(made: Iterable) -> int | None:
    """How many inputs a DataLoader, or a list of batches, will give."""
    if isinstance(made, (list, tuple)):
        return sum(map(n_inputs, made))
    if isinstance(made, DataLoader) and isinstance(made.dataset, Sized) and not made.drop_last:
        return len(made.dataset)
    return None


def _as_shown(item: object) -> object:
    return item.numpy() if isinstance(item, Tensor) and item.dtype == torch.uint8 else item


def _spread(available: int, limit: int | None) -> list[int]:
    """Places of so many inputs, evenly spread, or of all."""
    count = available if limit is None else min(limit, available)
    return np.linspace(0, available - 1, count).round().astype(int).tolist()
