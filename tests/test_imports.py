"""What is imported with the package: a test for a checkout, and for the package that pip installed."""

import subprocess
import sys


def test_torch_alone_is_imported_with_the_package():
    listed = "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    alone, ours = (
        set(subprocess.check_output([sys.executable, "-c", code + listed], text=True).split())
        for code in ("import torch", "import convergent_utils")
    )
    assert ours - alone - set(sys.stdlib_module_names) == {"convergent_utils"}
