import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser):
    parser.addoption(
        "--base-seed", type=int, default=0, help="base seed of the planted networks that the tests look at"
    )


@pytest.fixture(scope="session")
def base_seed(request):
    """Whatever it is, every test of trained networks must hold: another processor trains others from the same one."""
    return request.config.getoption("base_seed")


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
def smoke(paper, base_seed, tmp_path_factory):
    """The whole paper on planted networks, from nothing: its folder, what it said, and the seconds it took.

    Where several processes share the tests, the first to ask runs it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        record, start = folder / "said.json", time.monotonic()
        if not record.exists():
            done = paper(folder, "--profile", "smoke", "--seed", str(base_seed))
            said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            record.write_text(json.dumps([said, time.monotonic() - start]))
        said, seconds = json.loads(record.read_text())
    assert said["returncode"] == 0, said["stdout"] + said["stderr"]
    return folder, subprocess.CompletedProcess("make paper", **said), seconds


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Mark tests of trained networks, which are run again at other base seeds, and put tests in order.

    One file of tests that need the planted paper comes first, the other files of that kind last.

    While one process makes the paper, the others go on with what does not need it. Files are dealt out one ahead, by
    name: a file of one long test is best named last, so that it is not queued behind another.
    """
    for item in items:
        if "smoke" in item.fixturenames:
            item.add_marker("trained")
    needy = {item.path for item in items if "smoke" in item.fixturenames}
    first = next((item.path for item in items if item.path in needy), None)
    items.sort(key=lambda item: 0 if item.path == first else 2 if item.path in needy else 1)
