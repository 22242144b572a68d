import os
import subprocess
import sys
import time

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def paper():
    """Runs the paper as `make paper` does, with build and store in a folder of its own."""

    def run(folder, *arguments):
        folders = {"CONVERGENT_BUILD": str(folder / "build"), "CONVERGENT_STORE": str(folder / "store")}
        command = [sys.executable, "-m", "convergent_utils.paper.run", "paper", *arguments]
        return subprocess.run(command, env={**os.environ, **folders}, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def smoke(paper, tmp_path_factory):
    """The whole paper on planted networks, from nothing: its folder, what it said, and the seconds it took."""
    folder, start = tmp_path_factory.mktemp("smoke"), time.monotonic()
    done = paper(folder, "--profile", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done, time.monotonic() - start
