"""A run that is killed, at any moment, leaves a store from which the next one goes on."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

PREPARE = """
import sys
from convergent_utils.nets.store import Store
from convergent_utils.paper.prepare import prepare
if __name__ == "__main__":
    prepare("04_sparse_mapping", profile="smoke", store=Store(sys.argv[1]))
"""


def start(script, store):
    # a session of its own, so that whatever it starts can be found again
    return subprocess.Popen(
        [sys.executable, str(script), str(store)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def session_members(leader):
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != leader]


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_where_it_was(smoke, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(PREPARE)
    whole, broken, lasted = smoke[0] / "store", tmp_path / "broken", smoke[2] / 12  # one notebook's part of it
    moments, kept = random.Random(0), {}
    for _ in range(3):
        process = start(script, broken)
        time.sleep(moments.uniform(0.1, 0.95) * lasted)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while session_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not session_members(process.pid), "a worker outlived the run that started it"
        now = {path.name: path.stat().st_mtime_ns for path in broken.glob("*.safetensors")}
        assert all(now[name] == when for name, when in kept.items()), "something finished was made again"
        kept = now
    process = start(script, broken)
    assert process.wait(300) == 0, process.stderr.read()
    after = {path.name: path.stat().st_mtime_ns for path in broken.glob("*.safetensors")}
    assert all(after[name] == when for name, when in kept.items())
    for kind in ("network", "measurement", "sgd"):  # networks train, are measured, and meet the original optimiser
        assert any(name.startswith(kind) for name in after)
    assert all((broken / name).read_bytes() == (whole / name).read_bytes() for name in after)
