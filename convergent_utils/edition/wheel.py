"""The wheel, built and tried as a user would: `make dist` runs `python -m convergent_utils.edition.wheel`.

It is installed into an environment of its own, and its tests run in a folder outside any checkout. The environment
borrows the torch that is installed here, which is several GB; all else comes from where pip finds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from ..making.checkout import PROJECT, kept_folder, require_checkout

_TESTS = ("test_examples.py", "test_imports.py", "installed/test_installed.py")
_LEFT_OUT = ("PYTHON", "CONVERGENT")  # what begins so in the environment tells of the checkout


def build_wheel(folder: Path) -> Path:
    """Build the source distribution, and from that alone the wheel; the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    _call(sys.executable, "-m", "build", "--outdir", folder, PROJECT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def fresh_environment(folder: Path, *wanted: str | Path) -> Path:
    """An environment with what is wanted, and with this one's torch; its Python."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    found = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    borrowed = folder / "borrowed"
    for name in ("torch", "torchvision"):  # the second must fit the first
        _lend(name, borrowed)
    (Path(found) / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    constraints = ("--constraint", PROJECT / "constraints.txt")
    _call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *constraints, *wanted, env=_known())
    return python


def _lend(name: str, folder: Path) -> None:
    """Link a package and all that it needs into a folder."""
    folder.mkdir(exist_ok=True)
    for package in _with_needs(name).values():
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))))


def _with_needs(name: str) -> dict[str, Distribution]:
    """A package that is installed here, and those that it needs of which there is one, by name."""
    from packaging.requirements import Requirement

    waiting, found = [name], {}
    while waiting:
        this = waiting.pop()
        try:
            package = distribution(this)
        except PackageNotFoundError:  # such as that of another system
            continue
        if this not in found:
            found[this] = package
            needs = map(Requirement, package.requires or ())
            waiting += [one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def try_out(python: Path) -> None:
    """Run the tests of the installed package in a folder outside any checkout, with a home of its own."""
    with tempfile.TemporaryDirectory(prefix="cl-") as name:
        away = Path(name)
        for test in _TESTS:
            shutil.copy(PROJECT / "tests" / test, away)
        home = dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"), str(away / "home"))
        settings = ("-c", os.devnull, "--rootdir", away, "-p", "no:cacheprovider", "-q", "-ra")
        _call(
            python, "-m", "pytest", *settings, *(Path(test).name for test in _TESTS), cwd=away, env={**_known(), **home}
        )


def _known() -> dict[str, str]:
    """What may be known of the environment: nothing that leads to the checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}


def _call(*words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    subprocess.run(list(map(str, words)), check=True, cwd=cwd, env=env)


def main() -> int:
    """Build, install, try out; say where the wheel lies."""
    try:
        require_checkout("dist")
        wheel = build_wheel(kept_folder() / "dist")
        with tempfile.TemporaryDirectory(prefix="cl-") as name:
            try_out(fresh_environment(Path(name) / "environment", wheel, "pytest"))
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, installed and tested")
    return 0


if __name__ == "__main__":
    sys.exit(main())
