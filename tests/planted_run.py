"""The planted networks that many tests look at, and the notebooks that are run on them as `make paper` does."""

import os
import subprocess
import sys

# The others are run by the tests of exercises alone, each once.
NOTEBOOKS = ("01_activation_statistics", "05_spectral_clustering")
# First what all notebooks read, then two of them; in one process, which imports all that it needs once.
RUN = """
import runpy
import sys
from convergent_utils.paper.prepare import prepare

if __name__ == "__main__":
    prepare(profile="smoke", seed=int(sys.argv[1]), published=False)
    sys.argv[1:] = ["paper", "--profile", "smoke", "--seed", sys.argv[1], "--only", *sys.argv[2:]]
    runpy.run_module("convergent_utils.cli", run_name="__main__")
"""


def make(folder, seed):
    """What the process said that made them in a folder."""
    script = folder / "run.py"
    script.write_text(RUN)
    folders = {"CONVERGENT_BUILD": str(folder / "build"), "CONVERGENT_STORE": str(folder / "store")}
    options = {"env": {**os.environ, **folders}, "capture_output": True, "text": True, "timeout": 900}
    return subprocess.run([sys.executable, str(script), str(seed), *(name[:2] for name in NOTEBOOKS)], **options)
