"""Where the package runs: in a checkout of the project, or as pip installed it from a wheel, without the paper."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]


def in_checkout() -> bool:
    """Whether the project lies around the package, with its notebooks and data."""
    return (PROJECT / "pyproject.toml").is_file() and (PROJECT / "notebooks").is_dir()


def kept_folder() -> Path:
    """Where what is made is kept: in a checkout its folder build, else a folder of the user's cache."""
    if in_checkout():
        return PROJECT / "build"
    from platformdirs import user_cache_path

    return user_cache_path("convergent-learning", appauthor=False)


def require_checkout(what: str) -> None:
    """Raise where the paper is asked for, and the package was installed without it.

    Raises:
        ValueError: there is no checkout; `what` begins the sentence.
    """
    if not in_checkout():
        raise ValueError(
            f"{what}: notebooks, images and published networks come with a checkout of the project and not with the "
            "package that pip installed; get the project, and run `convergent` there"
        )
