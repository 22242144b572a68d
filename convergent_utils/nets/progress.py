"""How far long work has come: a bar on a terminal, or whatever a function makes of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ..kernels.checks import came, in_one_line

Progress = Callable[[int, int | None], object] | bool | None


@contextmanager
def reporting(
    progress: Progress, total: int | None, *, unit: str = " inputs"
) -> Generator[Callable[[int], object] | None]:
    """Within it what is yielded is called with how much is done; None where nobody wants to know.

    Args:
        progress: called with what is done and `total`; True: a bar; None: a bar where errors go to a terminal; False:
            nothing.
        total: how much there is, None where that is not known.
        unit: of what, beside the bar.

    Raises:
        ValueError: progress that is none of these.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise ValueError(f"progress: expected a function of done and total, True, False or None, got {came(progress)}")
    if callable(progress):
        _require_two(progress)
        yield lambda done: progress(done, total)
    elif progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        from tqdm import tqdm

        with tqdm(total=total, unit=unit, delay=0 if progress else 1, leave=False) as bar:
            yield lambda done: bar.update(done - bar.n)
    else:
        yield None


def _require_two(progress: Callable) -> None:
    """It can be called with what is done and how much there is."""
    try:
        inspect.signature(progress).bind(0, None)
    except TypeError as error:
        expected = "expected a function of two arguments, done and total"
        raise ValueError(f"progress: {expected}; this one has {in_one_line(error, 100)}") from error
    except ValueError:  # of functions that do not say what they take
        return
