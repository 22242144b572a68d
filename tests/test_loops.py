"""Compiled loops: imported when used, also where nothing can be written, and by any number of threads at once."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import convergent_utils as cu

PACKAGE = Path(cu.__file__).parent
USE = """
import sys, warnings
import convergent_utils as cu
assert "numba" not in sys.modules, "who compares by moments alone needs no compiled loop"
import torch
acts = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
pair = cu.pair_moments(acts, acts)
assert float(cu.linear_cka(pair)) > .999
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    first = cu.mutual_information(acts, acts, bins=4)
    cu.sparse_mapping(pair, [0.1])
    cu.mutual_information(acts, acts, bins=5)
print([float(v) for v in first.flatten()])
print(*[w.message for w in said if "loops" in str(w.message)], sep="\\n")
"""
THREADS = """
from concurrent.futures import ThreadPoolExecutor
import torch
import convergent_utils as cu
torch.set_num_threads(2)
acts = [torch.rand(2000, 6, generator=torch.Generator().manual_seed(k)) for k in range(8)]
alone = [cu.mutual_information(x, acts[0]) for x in acts]
with ThreadPoolExecutor(4) as pool:
    together = list(pool.map(lambda x: cu.mutual_information(x, acts[0]), acts))
    pairs = [cu.pair_moments(x, acts[0]) for x in acts]
    mapped = list(pool.map(lambda pair: cu.sparse_mapping(pair, [0.1]).coefficients, pairs))
assert all(map(torch.equal, alone, together))
assert all(torch.equal(w, cu.sparse_mapping(pair, [0.1]).coefficients) for w, pair in zip(mapped, pairs))
print("the same")
"""


def run(script, root, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    command = [sys.executable, "-B", "-c", script]
    options = {"cwd": root, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, env={**kept, "PYTHONPATH": str(root), **environment}, **options)


@pytest.mark.slow
def test_where_nothing_can_be_written_loops_are_compiled_anew_and_it_is_said_once(tmp_path):
    copy = shutil.copytree(
        PACKAGE, tmp_path / "convergent_utils", ignore=shutil.ignore_patterns("__pycache__", "pages")
    )
    for folder in [copy, *filter(Path.is_dir, copy.iterdir())]:
        (folder / "__pycache__").write_text("a file where a folder should be: not even root can write into it")
    blocked = str(copy / "__pycache__" / "below")
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), blocked)
    done = run(USE, tmp_path, **folders, NUMBA_OPT="0")  # compiled faster, to count more slowly
    assert done.returncode == 0, done.stderr
    values, *said = done.stdout.strip().splitlines()
    assert len(said) == 1, said
    assert "NUMBA_CACHE_DIR" in said[0]
    acts = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    assert eval(values) == cu.mutual_information(acts, acts, bins=4).flatten().tolist()


def test_where_they_can_be_kept_nothing_is_said_and_threads_count_at_once():
    done = run(USE + THREADS, PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    values, *said = done.stdout.splitlines()
    assert said == ["", "the same"]
    assert eval(values)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_pairs_and_count_each_once(threads):
    acts, before = torch.rand(4000, 5, generator=torch.Generator().manual_seed(1)).double(), torch.get_num_threads()
    expected = cu.mutual_information(acts, acts[:, :3], method="scatter")
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(cu.mutual_information(acts, acts[:, :3]), expected)
    finally:
        torch.set_num_threads(before)
