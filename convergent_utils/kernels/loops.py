"""Compiled loops, for the CPU: numba is imported when the first of them is called, which imports this module.

They hold no lock of Python and share no threads of numba's, so that any number of threads may be in them at once.
"""

import warnings
from collections.abc import Callable

import numba
import numpy as np

BLOCK = 4096  # activations that stay in the nearest cache


def _compiled(function: Callable) -> Callable:
    """The function, compiled when it is called; what was compiled is kept for other processes where that can be."""
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # neither beside the package nor in the user's cache can a file be written
        if not _told:
            _told.append(function)
            warnings.warn(
                "compiled loops cannot be kept: numba finds no folder to write in, so each process compiles them anew, "
                "for some seconds; name one in NUMBA_CACHE_DIR",
                stacklevel=2,
            )
        return numba.njit(function, nogil=True)


_told: list[Callable] = []


@_compiled
def place(rows, cuts, zero_bin, codes):  # pragma: no cover - compiled
    """Count the cuts that each activation reaches: for so few, many samples at once beat a search for each."""
    for unit in range(len(rows)):
        for start in range(0, rows.shape[1], BLOCK):
            row, code = rows[unit, start : start + BLOCK], codes[unit, start : start + BLOCK]
            code[:] = zero_bin
            for cut in cuts[unit]:
                for k in range(len(row)):
                    code[k] += row[k] >= cut
            if zero_bin:
                for k in range(len(row)):
                    code[k] = 0 if row[k] == 0 else code[k]


@_compiled
def tally(counts, codes_a, codes_b, first, width, start, stop):  # pragma: no cover - compiled
    """Add the counts of units of a with units of b from `first` on, `width` of which share a row of codes_b.

    Pairs of rows are counted along those of a; only those from `start` to `stop` are taken.
    """
    cells_a, cells_b = counts.shape[2:]
    for pair in range(start, stop):
        i, group = pair // len(codes_b), pair % len(codes_b)
        table = _joint_table(codes_a[i], codes_b[group], cells_a, cells_b**width)
        table = table.reshape(cells_a, cells_b ** (width - 1), cells_b)
        j = first + width * group
        for x in range(cells_a):
            last = counts[i, j + width - 1, x]
            for y in range(table.shape[1]):
                for z in range(cells_b):
                    last[z] += table[x, y, z]
                if width == 2:
                    counts[i, j, x, y] += table[x, y].sum()


@_compiled
def _joint_table(codes_a, codes_b, cells_a, cells_b):  # pragma: no cover - compiled
    """Joint counts of two rows of codes, flat.

    Several partial tables take turns: adding twice to one cell waits for the first addition to reach memory, and units
    that are mostly 0 nearly always hit one cell. A large table is kept in two parts only, to stay in the nearest cache.
    """
    parts = np.zeros((4 if cells_a * cells_b <= 1024 else 2, cells_a * cells_b), np.int32)
    part_0, part_1, part_2, part_3 = parts[0], parts[1], parts[-2], parts[-1]
    joint = np.empty(BLOCK, np.uint16)
    for start in range(0, len(codes_a), BLOCK):
        a, b = codes_a[start : start + BLOCK], codes_b[start : start + BLOCK]
        for k in range(len(a)):
            joint[k] = np.uint16(a[k]) * np.uint16(cells_b) + b[k]
        n = len(a) // 4
        joint_0, joint_1, joint_2, joint_3 = joint[:n], joint[n : 2 * n], joint[2 * n : 3 * n], joint[3 * n : 4 * n]
        for k in range(n):
            part_0[joint_0[k]] += 1
            part_1[joint_1[k]] += 1
            part_2[joint_2[k]] += 1
            part_3[joint_3[k]] += 1
        for k in range(4 * n, len(a)):
            part_0[joint[k]] += 1
    return parts.sum(0)


@_compiled
def descend_all(gram, targets, penalty, weights, fitted, tolerance, most_rounds):  # pragma: no cover - compiled
    """Every target (targets, units_a) in turn; weights and fitted = gram @ weights are brought up to date in place."""
    gaps = np.empty(len(targets))
    active = np.empty(targets.shape[1], dtype=np.int64)
    for t in range(len(targets)):
        target, weight, fit = targets[t], weights[t], fitted[t]
        gaps[t] = _relative_gap(target, weight, fit, penalty)
        for _ in range(most_rounds):
            if gaps[t] <= tolerance:
                break
            n_active = 0
            for i in range(len(target)):
                _update(gram, target, penalty, weight, fit, i)
                if weight[i] != 0.0:
                    active[n_active] = i
                    n_active += 1
            for _ in range(10):
                for k in range(n_active):
                    _update(gram, target, penalty, weight, fit, active[k])
            gaps[t] = _relative_gap(target, weight, fit, penalty)
    return gaps


@_compiled
def _update(gram, target, penalty, weight, fit, i):  # pragma: no cover - compiled
    """The best weight i, the others being as they are: the soft threshold."""
    variance, old = gram[i, i], weight[i]
    if variance > 0.0:
        pull = target[i] - fit[i] + variance * old
        new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / variance
        if new != old:
            change, row = new - old, gram[i]
            for k in range(len(fit)):
                fit[k] += change * row[k]
            weight[i] = new


@_compiled
def _relative_gap(target, weight, fit, penalty):  # pragma: no cover - compiled
    """Primal minus dual objective over the primal; see `_gap_of`."""
    explained, energy, size, steepest = 0.0, 0.0, 0.0, 0.0
    for i in range(len(target)):
        explained += weight[i] * target[i]
        energy += weight[i] * fit[i]
        size += abs(weight[i])
        steepest = max(steepest, abs(target[i] - fit[i]))
    variance = max(1.0, 2.0 * explained - energy)
    residual = variance - 2.0 * explained + energy
    primal = residual / 2.0 + penalty * size
    scale = 1.0 if steepest <= penalty else penalty / steepest
    return max(primal - scale * (variance - explained) + scale**2 * residual / 2.0, 0.0) / max(primal, 1e-300)
