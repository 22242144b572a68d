"""The two commands that README shows, in minutes and memory; and 200,000 inputs from a loader.

At a small part of their size they run with the other tests, without a limit of time.
"""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

WORDS = "the a cat dog sees finds runs over under house tree green blue small very and then while because".split()  # noqa: SIM905
_START = 10  # seconds in which a run imports and probes
SMALL = ["--sample", "410", "--turns", "2", "--shuffles", "2"]


def command(folder, *arguments, threads):
    """Seconds and peak memory in GiB of a command."""
    measured = textwrap.dedent(
        """
        import resource, sys, time
        from convergent_utils import cli
        start = time.perf_counter()
        status = cli.main(sys.argv[1:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"took {time.perf_counter() - start:.1f} s, {peak:.2f} GiB")
        sys.exit(status)
        """
    )
    run = [sys.executable, "-c", measured, *arguments, "--store", "store", "--out", "report.html"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, memory = re.search(r"took ([\d.]+) s, ([\d.]+) GiB", done.stdout).groups()
    assert (folder / "report.html").stat().st_size < 5e6
    return float(seconds), float(memory)


def pictures(folder, n):
    """n smooth pictures of 64 pixels."""
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(n):
        few = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(few).resize((64, 64), Image.BICUBIC).save(folder / "pictures" / f"{number:05d}.png")
    return [
        "compare", "torchvision:resnet18", "torchvision:resnet18", "--data", "folder:pictures",
        "--layers", "conv1", "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip


def texts(folder, n):
    """n texts of unlike length, and two networks of 4 layers x 256."""
    from transformers import GPT2Config

    sizes = {"vocab_size": 300, "n_positions": 256, "n_embd": 256, "n_layer": 4, "n_head": 4}
    for name in ("one", "other"):
        GPT2Config(**sizes, bos_token_id=0, eos_token_id=0).save_pretrained(folder / name)
    draws = random.Random(0)
    lines = [" ".join(draws.choices(WORDS, k=draws.randint(3, 20))) for _ in range(n)]
    (folder / "texts.txt").write_text("\n".join(lines))
    return ["compare", "hf:one", "hf:other", "--data", "text:texts.txt", "--layers", "h.*"]


COMMANDS = [
    ("torchvision", pictures, 2000, 240),
    pytest.param("transformers", texts, 1000, 60, marks=pytest.mark.networks),
]


@pytest.mark.parametrize(("library", "made", "n", "limit"), COMMANDS)
def test_a_command_at_a_small_part(tmp_path, library, made, n, limit):
    pytest.importorskip(library)
    command(tmp_path, *made(tmp_path, 50 if library == "torchvision" else n // 10), *SMALL, threads=1)


@pytest.mark.benchmark
@pytest.mark.parametrize(("library", "made", "n", "limit"), COMMANDS)
def test_a_command_takes_minutes(tmp_path, library, made, n, limit):
    pytest.importorskip(library)
    seconds, memory = command(tmp_path, *made(tmp_path, n), threads=2)
    print(f"\n{n} {made.__name__}: {seconds:.0f} s, {memory:.1f} GiB")
    assert seconds < limit
    assert memory < 3


LOADER = textwrap.dedent(
    """
    import resource, sys, time
    import torch
    from torch.utils.data import DataLoader, Dataset
    import convergent_utils as cu

    class Numbers(Dataset):
        def __len__(self):
            return int(sys.argv[2])

        def __getitem__(self, k):
            return torch.sin(torch.arange(64.0) * (k + 1))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    wide = [torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
    network = torch.nn.Sequential(*wide, torch.nn.Linear(1024, 64), torch.nn.ReLU())
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    loader = DataLoader(Numbers(), batch_size=250)
    found = cu.measure({"a": network}, loader, ["1", "5"], store=sys.argv[1], progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(calls)} {peak:.0f} {float(found.pair('a.5', 'a.5').cov_aa.sum()):.12g}")
    """
)


def through(tmp_path, n, *, killed_after=None):
    """Calls of the network, peak memory in MiB and a number of the result; None where it was killed."""
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "store"), str(n)], stdout=subprocess.PIPE, text=True
    )
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        return None
    out, _ = run.communicate()
    calls, memory, number = out.split()
    return int(calls), float(memory), float(number)


@pytest.mark.benchmark
def test_memory_is_flat_and_a_killed_run_goes_on(tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    (tmp_path / "again").mkdir()
    _, few, _ = through(tmp_path / "few", 20_000)
    start = time.perf_counter()
    calls, many, wanted = through(tmp_path / "many", 200_000)
    took = time.perf_counter() - start
    print(f"\n20,000 inputs: {few:.0f} MiB; 200,000: {many:.0f} MiB, {took:.0f} s")
    assert many < few + 60
    share = random.uniform(0.5, 0.9)
    through(tmp_path / "again", 200_000, killed_after=took * share)
    again, _, number = through(tmp_path / "again", 200_000)
    print(f"killed after {share:.0%} and started again: {again} of {calls} calls")
    assert number == pytest.approx(wanted, rel=1e-9)
    assert again / calls - (1 - share) < max(0.1, 30 / took) + _START / took
