import json
import os
import signal
import subprocess

import planted_run
import pytest
import torch
from filelock import FileLock
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode

from convergent_utils import cli

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser):
    parser.addoption(
        "--base-seed", type=int, default=0, help="base seed of the planted networks that the tests look at"
    )
    parser.addoption("--pictures", action="store_true", help="leave pictures of the site's pages in build/screenshots")


@pytest.fixture(scope="session")
def base_seed(request):
    """Whatever it is, every test of trained networks must hold: another processor trains others from the same one."""
    return request.config.getoption("base_seed")


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def fake_cuda():
    """Older torch makes no fake tensor on a device that is not there, unless it was built without that device."""
    try:
        with FakeTensorMode():
            torch.randn(2, device="cuda").sum()
    except RuntimeError as error:
        if Version(torch.__version__) >= Version("2.14"):
            raise
        pytest.skip(f"torch {torch.__version__} makes no fake cuda device here: {error}".splitlines()[0])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def smoke(base_seed, tmp_path_factory):
    """The planted networks with all that the notebooks read, and two notebooks, from nothing; and what was said.

    Where several processes share the tests, the first to ask makes it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        record = folder / "said.json"
        if not record.exists():
            said = planted_run.make(folder, base_seed)
            record.write_text(json.dumps({key: getattr(said, key) for key in ("returncode", "stdout", "stderr")}))
        said = json.loads(record.read_text())
    assert said["returncode"] == 0, said["stdout"] + said["stderr"]
    return folder, subprocess.CompletedProcess("make paper", **said)


@pytest.fixture(scope="session")
def editions(tmp_path_factory):
    """The folder of the course, written twice: nothing may depend on when it was written."""
    folder = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVERGENT_BUILD", str(folder))
        assert cli.main(["course"]) == 0
        first = {path: path.read_bytes() for path in folder.rglob("*.*")}
        assert cli.main(["course"]) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == first
    return folder / "course"


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
