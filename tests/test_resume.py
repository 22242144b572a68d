"""A run that is killed, at any moment, leaves a store from which the next one goes on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

# The planted networks of notebook 04 with all they need, on few images; workers import this script, too.
PREPARE = """
import sys
from dataclasses import replace
from convergent_utils.making.store import Store
from convergent_utils.nets.training import Recipe
from convergent_utils.paper import PROFILES, prepare, sparse_mapping

few = {"recipe": Recipe(epochs=1), "train_limit": 1024, "test_limit": 256, "sample": 256}
PROFILES["smoke"] = replace(PROFILES["smoke"], **few)
sparse_mapping.SIZES["smoke"] = sparse_mapping.Sizes(steps=(5, 15, 45, 150))
if __name__ == "__main__":
    print("ready", flush=True)
    prepare("04_sparse_mapping", profile="smoke", store=Store(sys.argv[1]))
"""


# A paper of two notebooks that need nothing and take two seconds.
PAPER = """
import sys
from pathlib import Path
from convergent_utils import cli
from convergent_utils.edition import places, run

if __name__ == "__main__":
    places.NOTEBOOKS = run.NOTEBOOKS = Path(sys.argv[1])
    run.prepare = lambda *names, **settings: None
    print("ready", flush=True)
    sys.exit(cli.main(["paper", "--profile", "smoke"]))
"""
CLAIM = """import json, os, pathlib, tempfile, time
kept = tempfile.mkdtemp(), tempfile.mkstemp()  # what a library might leave
for step in range(20):
    time.sleep(0.1)
row = dict(id=f"{name}.x", notebook=name, holds="imprecise", beyond_baseline="-", check=False, published=None, ours=1.0,
           interval=[0, 2], baseline=None, rule="above 1")
rows = pathlib.Path(os.environ["CONVERGENT_BUILD"], "results", "rows")
rows.mkdir(parents=True, exist_ok=True)
(rows / f"{name}.json").write_text(json.dumps([row]))"""


def start(script, argument, **environment):
    """Start a run, and come back when its imports are done; whatever it starts shares its session."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {**os.environ, **environment}}
    process = subprocess.Popen([sys.executable, str(script), str(argument)], start_new_session=True, **pipes)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def session_members(leader):
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != leader]


def finish(process):
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_where_it_was(tmp_path):
    script, whole, broken = tmp_path / "run.py", tmp_path / "whole", tmp_path / "broken"
    script.write_text(PREPARE)
    process, began = start(script, whole), time.monotonic()
    finish(process)
    lasted, moments, kept = time.monotonic() - began, random.Random(0), {}
    for _ in range(3):
        process = start(script, broken)
        time.sleep(moments.uniform(0.2, 0.95) * lasted)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while session_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not session_members(process.pid), "a worker outlived the run that started it"
        now = {path.name: path.stat().st_mtime_ns for path in broken.glob("*.safetensors")}
        assert all(now[name] == when for name, when in kept.items()), "something finished was made again"
        kept = now
    finish(start(script, broken))
    after = {path.name: path.stat().st_mtime_ns for path in broken.glob("*.safetensors")}
    assert all(after[name] == when for name, when in kept.items())
    for kind in ("learned", "measured", "optimised"):  # networks train, are measured, and meet the original optimiser
        assert any(name.startswith(kind) for name in after)
    assert {name: (whole / name).read_bytes() for name in after} == {
        path.name: path.read_bytes() for path in broken.glob("*.safetensors")
    }


@pytest.fixture
def temporary():
    """A temporary folder of a short name: those of sockets may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def unfinished(build):
    """What lies in a build folder under a name that begins with a dot."""
    return [path for path in build.rglob(".*") if path.parent.name != ".locks" and path.name != ".locks"]


def wait_until(true, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} in {seconds} s"
        time.sleep(0.05)


@pytest.mark.slow
def test_notebooks_that_are_killed_or_interrupted_leave_nothing(tmp_path, temporary):
    script, build, books = tmp_path / "run.py", tmp_path / "build", tmp_path / "books"
    folders = {"CONVERGENT_BUILD": str(build), "TMPDIR": str(temporary)}
    script.write_text(PAPER)
    books.mkdir()
    for name in ("00_x", "01_y"):
        parameters = nbformat.v4.new_code_cell('dataset: str = ""\nseed: int = 0\nprofile: str = ""')
        parameters.metadata["tags"] = ["parameters"]
        cells = [parameters, nbformat.v4.new_code_cell(f"name = {name!r}\n{CLAIM}")]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), books / f"{name}.ipynb")
    half = build / "notebooks" / ".00_x.ipynb.999999999"
    left = set()
    for stop in (signal.SIGKILL, signal.SIGINT, None):
        process = start(script, books, **folders)
        if stop is None:
            break
        wait_until(lambda left=left: set(temporary.glob("cl-run-*/tmp*/")) - left, "a notebook ran")
        half.write_text("half")  # as if it had been killed while it wrote this
        began, send = time.monotonic(), os.kill if stop == signal.SIGKILL else os.killpg
        send(process.pid, stop)
        said = process.communicate(timeout=60)[1]
        wait_until(lambda pid=process.pid: not session_members(pid), "its processes were gone", 20)
        if stop == signal.SIGINT:
            assert said == "convergent: interrupted; what was finished is kept, start again to go on\n"
            assert process.returncode == 130
            assert time.monotonic() - began < 30
            assert not list(temporary.iterdir())
        else:
            assert "Traceback" not in said
            left = set(temporary.glob("cl-run-*/tmp*/"))
            assert left, "else nothing is seen here"
    finish(process)
    assert not list(temporary.iterdir())
    assert not unfinished(build)
    assert {path.name for path in (build / "notebooks").iterdir()} == {"00_x.ipynb", "01_y.ipynb"}
    assert [row["id"] for row in json.loads((build / "results" / "claims.json").read_text())] == ["00_x.x", "01_y.x"]


@pytest.mark.kills
def test_the_whole_paper_killed_ten_times_leaves_the_store_and_the_same_claims(base_seed, tmp_path, temporary):
    whole, broken, moments, kills = tmp_path / "whole", tmp_path / "broken", random.Random(0), 0
    build, store = broken / "build", broken / "store"
    command = [sys.executable, "-m", "convergent_utils.cli", "paper", "--profile", "smoke"]
    command += ["--seed", str(base_seed)]

    def options(folder):
        folders = {"CONVERGENT_BUILD": str(folder / "build"), "CONVERGENT_STORE": str(folder / "store")}
        environment = {**os.environ, **folders, "TMPDIR": str(temporary)}
        return {"env": environment, "start_new_session": True, "stderr": subprocess.DEVNULL}

    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options(whole))
    lasted = time.monotonic() - began
    while kills < 10:
        process, began = subprocess.Popen(command, **options(broken)), time.monotonic()
        try:
            process.wait(moments.uniform(0.05, 0.95) * lasted)
            lasted = time.monotonic() - began  # a store that is full makes the run shorter
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            print(f"kill {kills} after {time.monotonic() - began:.0f} s", flush=True)
            wait_until(lambda pid=process.pid: not session_members(pid), "its processes were gone", 20)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options(broken))
    assert not list(temporary.iterdir())
    assert not unfinished(build)
    assert not unfinished(store)
    assert {path.parent.name for path in build.rglob("*") if path.is_file()} == {"notebooks", "results", "rows"}
    for name in ("claims.json", "run.json"):
        first, second = (json.loads((folder / "results" / name).read_text()) for folder in (whole / "build", build))
        assert first == second
    assert {path.name for path in (whole / "store").iterdir()} == {path.name for path in store.iterdir()}
