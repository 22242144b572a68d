"""The console script: `convergent compare` and `measure` for any networks; the paper's own commands."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import warnings
from collections.abc import Generator
from concurrent.futures import BrokenExecutor
from typing import NoReturn

from . import __version__
from .compare.command import add_commands
from .edition.run import run
from .making.checkout import require_checkout
from .paper.prepare import PROFILES

_PACKAGES = {  # pip's names of what is imported by another
    "bs4": "beautifulsoup4", "ot": "POT", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Parser(argparse.ArgumentParser):
    """One whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        raise ValueError(f"{' '.join(message.split()):.240}; see `{self.prog} --help`")


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, _value(value)


def _parser() -> _Parser:
    parser = _Parser(prog="convergent", description=__doc__)
    parser.add_argument("--version", action="version", version=f"convergent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    paper = commands.add_parser("paper", help="regenerate every result and print the table of claims")
    paper.add_argument("--profile", default="paper", help=", ".join(PROFILES))
    paper.add_argument(
        "--dataset", default="fashion-mnist", help="fashion-mnist, cifar10, imagenet, npz:PATH, folder:PATH"
    )
    paper.add_argument("--seed", type=int, default=0, help="base seed; net k has seed + k")
    paper.add_argument(
        "--from", dest="source", choices=["published"], help="take networks and results from data/, train none"
    )
    paper.add_argument("--only", nargs="+", action="extend", help="numbers of notebooks, such as 00 02")
    paper.add_argument(
        "--parameter", nargs="+", action="extend", default=[], type=_pair, metavar="NAME=VALUE",
        help="further notebook parameters; a value is JSON, or else a text",
    )  # fmt: skip
    add_commands(commands)
    commands.add_parser("stability", help="the answers of notebooks 00 to 05 at further base seeds")
    publishing = commands.add_parser("publish", help="copy the last run into notebooks/, data/ and README.md")
    publishing.add_argument("--beside", metavar="NAME", help="keep the claims of a run on other images under this name")
    publishing.add_argument(
        "--same-numbers", action="store_true", help="name what is published after code edited without any effect"
    )
    shown = commands.add_parser("site", help="write the last run as static pages under the build folder")
    shown.add_argument("--solutions", action="store_true", help="show the solutions of exercises")
    commands.add_parser(
        "course",
        help="write the course under the build folder: for students, and for teachers with a pack for lecturers",
    )
    checked = commands.add_parser(
        "check",
        help="run notebooks of students and print how many exercises pass",
        epilog="Runs what students wrote with your rights, on copies that are thrown away. Code that looks for your "
        "files or the network, or is written to deceive the check, is stopped by a container only.",
    )
    checked.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="a file, or a folder with all that lie in it")
    checked.add_argument("--csv", metavar="FILE", help="write a table of scores instead; - is the standard output")
    return parser


def _command(chosen: argparse.Namespace) -> int:
    if chosen.command in ("compare", "measure"):
        from .compare import command

        with warnings.catch_warnings():
            warnings.showwarning = command.warn_in_a_line  # ty: ignore[invalid-assignment]  # ty lets no other function in
            return command.run_compare(chosen) if chosen.command == "compare" else command.run_measure(chosen)
    require_checkout(chosen.command)
    if chosen.command == "stability":
        from .edition.stability import stability

        return stability()
    if chosen.command == "site":
        from .edition.site import write_site

        return write_site(solutions=chosen.solutions)
    if chosen.command == "course":
        from .edition.course import write_course

        return write_course()
    if chosen.command == "check":
        from .edition.checking import check

        return check(chosen.notebooks, csv=chosen.csv)
    if chosen.command == "publish":
        from .edition.publish import publish, publish_beside, rename

        if chosen.same_numbers:
            return rename()
        return publish() if chosen.beside is None else publish_beside(chosen.beside)
    names = [name for name, _ in chosen.parameter]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"parameter: {twice!r} is given twice")
    return run(
        profile=chosen.profile, dataset=chosen.dataset, seed=chosen.seed, only=chosen.only,
        parameters=dict(chosen.parameter), published=chosen.source == "published",
    )  # fmt: skip


@contextlib.contextmanager
def _stopped_as_interrupted() -> Generator[None]:
    """A request to end is met as an interrupt is: workers end first. Both are heard once."""

    def stop(number: int, _: object) -> None:
        """Hear the first request, and no other."""
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # asked not to hear
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """The console script `convergent`."""
    try:
        with _stopped_as_interrupted():
            return _command(_parser().parse_args(arguments))
    except KeyboardInterrupt as stopped:
        said, status = "interrupted; what was finished is kept, start again to go on", 128 + (stopped.args or (2,))[0]
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("convergent_utils"):
            raise
        package = _PACKAGES.get(error.name or "", error.name)
        said, status = f"{package}: not installed; `pip install {package}` brings it, and in a checkout `make env`", 2
    except BrokenExecutor:
        said, status = "a worker process was killed, most likely for lack of memory", 2
    except (ValueError, OSError) as error:
        said, status = str(error), 2
    print(f"convergent: {said}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
