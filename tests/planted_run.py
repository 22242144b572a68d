"""The planted networks that many tests look at, and the notebooks that are run on them as `make paper` does."""

import os
import subprocess
import sys

# The others are run by the tests of exercises alone, each once.
NOTEBOOKS = ("01_activation_statistics", "05_spectral_clustering")
PREPARE = """
import sys
from convergent_utils.paper.prepare import prepare

if __name__ == "__main__":
    prepare(profile="smoke", seed=int(sys.argv[1]), published=False)
"""


def make(folder, seed):
    """Prepare what all notebooks read, then run two; what the process that failed, or the last one, said."""
    script = folder / "prepare.py"
    script.write_text(PREPARE)
    folders = {"CONVERGENT_BUILD": str(folder / "build"), "CONVERGENT_STORE": str(folder / "store")}
    options = {"env": {**os.environ, **folders}, "capture_output": True, "text": True, "timeout": 600}
    prepared = subprocess.run([sys.executable, str(script), str(seed)], **options)
    if prepared.returncode:
        return prepared
    command = [sys.executable, "-m", "convergent_utils.cli", "paper", "--profile", "smoke", "--seed", str(seed)]
    return subprocess.run([*command, "--only", *(name[:2] for name in NOTEBOOKS)], **options)
