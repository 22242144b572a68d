"""Checksums of tensors, and of the state of networks, which may hold other things."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import has_rows

_COMPRESSED = (("crow_indices", "col_indices", "values"), ("ccol_indices", "row_indices", "values"))
_SPARSE = {  # what makes up a tensor of each layout
    torch.sparse_coo: ("indices", "values"),
    **dict(zip((torch.sparse_csr, torch.sparse_csc), _COMPRESSED, strict=True)),
    **dict(zip((torch.sparse_bsr, torch.sparse_bsc), _COMPRESSED, strict=True)),
}


def checksum(tensors: Mapping[str, object], text: str = "") -> str:
    """sha256 of names, types, shapes and values. Of what is neither tensor nor plain value, its type alone."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors, key=str):
        for part in _parts(name, tensors[name]):
            digest.update(part)
    return digest.hexdigest()


def _parts(name: str, value: object) -> Iterator[bytes | memoryview]:
    """What a checksum takes up of one value."""
    if isinstance(value, Tensor) and value.is_quantized:
        value = value.dequantize()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor) and value.layout in _SPARSE:
        parts = value.detach().coalesce() if value.layout == torch.sparse_coo else value.detach()
        value = [str(value.layout), list(value.shape), *(getattr(parts, name)() for name in _SPARSE[value.layout])]
    if isinstance(value, Tensor) and has_rows(value):
        value = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        yield value.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(f"{name}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _parts(f"{name}/{number}", item)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{name} {value.dtype} {value.shape}".encode()
        yield value.tobytes()
    else:
        plain = value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype))
        yield f"{name} {type(value).__name__} {value if plain else ''}".encode()
