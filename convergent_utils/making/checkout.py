"""Where the package runs: in a checkout of the project, or as pip installed it from a wheel, without the paper."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]
_NAME = "convergent-learning"


def in_checkout() -> bool:
    """Whether the project lies around the package, with its notebooks and data."""
    try:
        said = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return f'name = "{_NAME}"' in said and (PROJECT / "notebooks").is_dir()  # it may lie beside another project


def kept_folder() -> Path:
    """Where what is made is kept: in a checkout its folder build, else a folder of the user's cache.

    Raises:
        ValueError: it is no checkout, and the user has no home folder.
    """
    if in_checkout():
        return PROJECT / "build"
    from platformdirs import user_cache_path

    try:
        return user_cache_path(_NAME, appauthor=False)
    except RuntimeError as error:  # of a user without a home
        raise ValueError(
            "CONVERGENT_STORE: you have no home folder; name a folder where results may be kept"
        ) from error


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
