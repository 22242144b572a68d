"""environment.yml from pyproject.toml: `python -m convergent_utils.edition.environment` writes it."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(pyproject: str) -> str:
    """The text of environment.yml: the core dependencies and those of the paper, from the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["paper"]]
    python = project["requires-python"]
    lines = [
        "# Written by `python -m convergent_utils.edition.environment` from pyproject.toml; edit that instead.",
        "name: convergent-learning",
        "channels: [conda-forge]",
        "dependencies:",
        f'  - "python{python}"',
        "  - pip",
        *(f'  - "{_conda_name(requirement)}"' for requirement in wanted),
        "  - pip:",
        "      - -e .",
    ]
    return "\n".join(lines) + "\n"


def _conda_name(requirement: str) -> str:
    """conda-forge calls torch pytorch."""
    return f"py{requirement}" if requirement.startswith("torch>") else requirement


def main() -> int:
    """Write environment.yml; with --check, only say whether it is up to date."""
    path, text = ROOT / "environment.yml", environment((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        current = path.exists() and path.read_text(encoding="utf-8") == text
        print(
            "environment.yml is up to date" if current else "environment.yml is out of date: run this without --check"
        )
        return 0 if current else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
