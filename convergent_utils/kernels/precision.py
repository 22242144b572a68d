"""Full float32 products: TF32 keeps ten bits of mantissa, bfloat16 seven; neither is enough for a correlation.

And powers of two, by which numbers of any scale are brought near 1 before they are squared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from threading import RLock, local
from typing import Any, Protocol

import torch
from torch import Tensor


class _Rounds(Protocol):
    """A backend of torch that says how it rounds."""

    fp32_precision: str


class ProcessWide:
    """A setting, of the whole process or of a thread, that several change for a while, and leave in any order."""

    def __init__(self):
        self.lock, self.within = RLock(), []  # a generator may be collected, and so left, while this thread holds it

    @contextmanager
    def changed(self, change: Callable[[ExitStack], None]) -> Generator[None]:
        """Within it the setting is changed; when the last has left, it is as before the first came.

        Args:
            change: makes the change, and puts on the stack what takes it back.
        """
        with self.lock, ExitStack() as begun:  # takes back what was changed before an error
            change(begun)
            mine = begun.pop_all()
            self.within.append(mine)
        try:
            yield
        finally:
            with self.lock:
                place = next(k for k, each in enumerate(self.within) if each is mine)
                del self.within[place]
                if place == len(self.within):
                    mine.close()
                else:  # who came next is still within: it takes back both changes, its own first
                    after = self.within[place]
                    own = after.pop_all()
                    after.callback(mine.close)
                    after.callback(own.close)


@contextmanager
def full_precision() -> Generator[None]:
    """Within it float32 products and convolutions are not rounded, neither to TF32 nor by autocast.

    The caller's settings come back after it, whether made by torch's older names or, from torch 2.9 on, by
    `fp32_precision`. The older ones cannot be read once the newer ones have been used.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            with suppress(RuntimeError):  # a device that this torch cannot do it for
                if torch.is_autocast_enabled(device):  # of this thread
                    stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_PRODUCTS.changed(_round_none))
        yield


_PRODUCTS = ProcessWide()


def _round_none(stack: ExitStack) -> None:
    """Products of float32 in float32; the stack takes it back."""
    for backend in _backends():
        stack.callback(_restore, backend, backend.fp32_precision)
    with suppress(RuntimeError):
        matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        if matmul != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, matmul)
        if convolution:
            torch.backends.cudnn.allow_tf32 = False
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
    for backend in _backends():
        if backend.fp32_precision not in ("none", "ieee"):
            backend.fp32_precision = "ieee"


def power_of_two(size: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The power of two at or below each positive size, 1 for 0 and for what is not finite; a tensor like `size`.

    Dividing by it rounds nothing, so squares of numbers of any scale can be taken near 1. It and its inverse are normal
    numbers of `dtype`.
    """
    tiny = torch.finfo(dtype).tiny
    power = (size / (2 * torch.frexp(size).mantissa)).clamp(tiny, 1 / tiny)
    return power.where((size > 0) & size.isfinite(), 1.0)


@contextmanager
def ordinary_tensors() -> Generator[None]:
    """Tensors made within it have no gradients, and can be changed in place also outside inference mode."""
    if not hasattr(_THREAD, "gradients"):
        _THREAD.gradients = ProcessWide()  # of this thread: generators may leave it in any order, too
    with _THREAD.gradients.changed(_without_gradients):
        yield


_THREAD = local()


def _without_gradients(stack: ExitStack) -> None:
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())


def _backends() -> list[_Rounds]:
    """What rounds for itself; none before torch 2.9."""
    if not hasattr(torch.backends.cudnn, "conv"):
        return []
    cudnn = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn  # an object that takes the place of the module, and has more than it
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]


def _restore(backend: _Rounds, before: str) -> None:
    """As it was: what a backend has from the setting above it is not made its own."""
    if backend.fp32_precision == before:
        return
    backend.fp32_precision = "none"
    if backend.fp32_precision != before:
        backend.fp32_precision = before
