"""The public names on the site: pages of what the package offers, made of its docstrings."""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Container, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING

import convergent_utils

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "api"  # of the pages
AUTODOC = {
    "autodoc_default_options": {"members": True, "member-order": "bysource"},
    "autodoc_typehints": "none",  # the docstrings say more: shapes and what numbers mean
    "add_module_names": False,
    "toc_object_entries_show_parents": "hide",
    "default_role": "py:obj",  # a name between backticks leads to where it is described, and is code where it is not
    "python_maximum_signature_line_length": 88,
    "python_trailing_comma_in_multi_line_signatures": False,
}
_DESCRIBED = re.compile(r"^\.\. auto(?:function|class):: (\w+)$", re.MULTILINE)
_WORK = re.compile(r"(?:ten )?\b([A-ZÖÅ][\w'’]+)(?:, \w+)*(?: and [\w'’]+)?(?: et al\.)? ((?:19|20)\d\d)")


def described(text: str) -> list[str]:
    """The public names that a page describes, in its order."""
    return _DESCRIBED.findall(text)


def overview(pages: Mapping[str, str]) -> str:
    """Every public name with the first words of its description, page by page as the contents order them, in Markdown.

    Args:
        pages: the texts of the site's pages, by name.
    """
    parts, order = [], re.findall(r"^(\w+)$", pages.get(f"{FOLDER}/index", ""), re.MULTILINE)
    for name in order:
        text = pages[f"{FOLDER}/{name}"]
        title = re.findall(r"^# (.+)", text, re.MULTILINE)[0]
        lines = [f"| {{py:obj}}`~convergent_utils.{one}` | {_first(one)} |" for one in described(text)]
        table = ["```{table}", ":class: names", "", "| name | what it is or does |", "|---|---|", *lines, "```"]
        parts.append("\n".join([f"## [{title}]({name}.md)\n", *table]))
    return "\n\n".join(parts)


def _first(name: str) -> str:
    """The first paragraph of a docstring, in Markdown."""
    paragraph = inspect.cleandoc(getattr(convergent_utils, name).__doc__).split("\n\n")[0]
    return re.sub(r":math:`(.+?)`", r"$\1$", " ".join(paragraph.split())).replace("|", "\\|")


def describe_from_docstrings(app: Sphinx) -> None:
    """Have Sphinx set out docstrings as the house writes them, with works cited from the bibliography."""
    from sphinx.ext.napoleon import Config, GoogleDocstring

    known = set(re.findall(r"^@\w+\{(\w+),", (app.srcdir / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    lists = [("Attributes", "params_style"), ("Raises", "params_style")]  # else sphinx has its own names for them
    house = Config(napoleon_use_param=False, napoleon_custom_sections=lists)

    def set_out(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
        """Replace the lines of one docstring."""
        told = _marked("\n".join(lines), known)
        text = str(GoogleDocstring(told, house))  # ty: ignore[invalid-argument-type]  # its own Config is meant, too
        lines[:] = text.replace("** -- ", "**: ").splitlines()

    def without_fields(_app: object, what: str, _name: str, obj: type, *_rest: object) -> tuple[str, None] | None:
        """No list of arguments for a class whose objects are returned, not made: its attributes are told below."""
        made = re.search(rf"(?:>>>|\.\.\.) .*\b{getattr(obj, '__name__', '')}\(", obj.__doc__ or "")
        return ("", None) if what == "class" and is_dataclass(obj) and not made else None

    app.connect("autodoc-process-docstring", set_out)
    app.connect("autodoc-process-signature", without_fields)


def _marked(text: str, known: Container[str]) -> str:
    """A docstring whose source is a paragraph of its own, and what is returned a field, which may hold a colon."""
    text = re.sub(r"^Returns:(\n +)([A-Z]\w+)", _returned, text, flags=re.MULTILINE)
    text = re.sub(r"^Returns:$", ":returns:", text, flags=re.MULTILINE)
    source = re.compile(r"^Source:((?:.|\n(?!\n))*)", re.MULTILINE)
    return source.sub(lambda found: f"\n**Source:** {_cited(' '.join(found[1].split()), known)}", text)


def _returned(found: re.Match) -> str:
    """The beginning of what is returned: the name of a class leads to it."""
    return found[0].replace(found[2], f"`{found[2]}`") if found[2] in convergent_utils.__all__ else found[0]


def _cited(text: str, known: Container[str]) -> str:
    """A text in which authors with a year lead to the bibliography, where it has them."""

    def cited(found: re.Match) -> str:
        """One work."""
        author = unicodedata.normalize("NFKD", found[1]).encode("ascii", "ignore").decode().lower()
        key = re.sub(r"\W", "", author) + found[2]
        return f":cite:t:`{key}`" if key in known else found[0]

    return _WORK.sub(cited, text)
