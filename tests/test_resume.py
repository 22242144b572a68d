"""A run that is killed, at any moment, leaves a store from which the next one goes on."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

# The planted networks of notebook 04 with all they need, on few images; workers import this script, too.
PREPARE = """
import sys
from dataclasses import replace
from convergent_utils.nets.store import Store
from convergent_utils.nets.training import Recipe
from convergent_utils.paper import prepare as module

few = {"recipe": Recipe(epochs=1), "train_limit": 1024, "test_limit": 256, "sample": 256, "sgd_steps": (5, 15, 45, 150)}
module.PROFILES["smoke"] = replace(module.PROFILES["smoke"], **few)
if __name__ == "__main__":
    print("ready", flush=True)
    module.prepare("04_sparse_mapping", profile="smoke", store=Store(sys.argv[1]))
"""


def start(script, store):
    """Start a run, and come back when its imports are done; whatever it starts shares its session."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, str(script), str(store)], start_new_session=True, **pipes)
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
    for kind in ("network", "measurement", "sgd"):  # networks train, are measured, and meet the original optimiser
        assert any(name.startswith(kind) for name in after)
    assert {name: (whole / name).read_bytes() for name in after} == {
        path.name: path.read_bytes() for path in broken.glob("*.safetensors")
    }
