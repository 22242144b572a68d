"""The whole paper on one page, for print: the chapters as they are on the site, without what paper cannot do."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urlparse

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

PAGE = "paper.html"
_LEFT_OUT = (
    ".headerlink, .launch, .run-note, .cell_input, details.above-input, .admonition.tip, style, script, label, output"
)
_CODE = re.compile(r'<div class="highlight-\w+ notranslate">.*?</pre></div>\s*</div>', re.DOTALL)
_SECTIONS = re.compile(r"Exercises|References|Live panels?")  # of a chapter, by their headings, which are no part of it


def fill(site: Path, names: Sequence[str]) -> None:
    """Put all chapters and one bibliography on the page of the whole paper, if the site has one.

    Args:
        site: the folder of the pages, finished.
        names: of the chapters, in reading order.
    """
    if not (site / PAGE).exists():
        return
    from bs4 import BeautifulSoup

    text = (site / PAGE).read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    pages = {f"notebooks/{name}.html": f"chapter-{name[:2]}" for name in names} | {"bibliography.html": "works"}
    parts = {path: _part(_article(site / path), path, mark) for path, mark in pages.items() if (site / path).exists()}
    place = _one(page, "#whole-paper")
    place.append(_contents(page, parts.values()))
    place.extend(parts.values())
    known = {str(element["id"]) for element in page.select("[id]")}
    for path, part in parts.items():
        _lead(part, path, pages, known)
    for number, figure in enumerate(page.select("article figure"), start=1):
        figure["id"] = f"figure-{number}"
        _one(figure, "figcaption").insert(0, page.new_tag("b", string=f"Figure {number}. "))
    if page.find(class_="math"):
        _one(page, "head").append(_scripts_of_formulas((site / next(iter(pages))).read_text(encoding="utf-8")))
    (site / PAGE).write_text(str(page), encoding="utf-8")


def _scripts_of_formulas(text: str) -> BeautifulSoup:
    """The scripts that set formulas, of a page in a folder; Sphinx has seen none on the page of the whole paper."""
    from bs4 import BeautifulSoup

    scripts = re.findall(r"<script[^>]*>window\.MathJax.*?</script>|<script[^>]*tex-svg[^>]*></script>", text)
    return BeautifulSoup("\n".join(scripts).replace("../", ""), "html.parser")


def _one(within: Tag, selector: str) -> Tag:
    """The first element that a selector finds."""
    return _there(within.select_one(selector), selector)


def _there(found: Tag | None, what: str) -> Tag:
    """What was looked for.

    Raises:
        ValueError: it was not found.
    """
    if found is None:
        raise ValueError(f"site: expected {what} on the pages that make the page for print, found none; mend the page")
    return found


def _article(path: Path) -> BeautifulSoup:
    """The article of a page without its code, which is most of it and takes long to read."""
    from bs4 import BeautifulSoup, SoupStrainer

    text = _CODE.sub("", path.read_text(encoding="utf-8"))
    return BeautifulSoup(text, "html.parser", parse_only=SoupStrainer("article"))


def _part(page: BeautifulSoup, path: str, mark: str) -> Tag:
    """A page as a part of the whole: its headings one lower, its pictures figures, its places marked as its own."""
    part = _one(page, "article > section")
    for section in part.select("section"):
        if _SECTIONS.fullmatch(_heading(section)):
            section.decompose()
    for figure in part.select("figure.slider"):
        _stand_still(page, figure)
    for element in part.select(_LEFT_OUT):
        element.decompose()
    for cell in reversed(part.find_all("div", class_=["cell", "output", "cell_output"])):
        if not cell.find(["img", "table", "svg"]) and not cell.find(id=True) and not cell.get_text(strip=True):
            cell.decompose()
    for picture in part.find_all("img"):
        picture["loading"] = "eager"  # a browser that prints does not scroll
        if "drawn" in picture.get_attribute_list("class"):
            _as_figure(page, picture)
    for heading in part.find_all(["h1", "h2", "h3"]):
        heading.name = f"h{int(heading.name[1]) + 1}"
    for element in part.find_all(id=True):
        if element.name in ("table", "th", "td"):  # nothing leads there
            del element["id"]
        else:
            element["id"] = f"{mark}-{element['id']}"
    if number := re.match(r"notebooks/(\d\d)", path):
        _one(part, "h2").insert(0, page.new_tag("span", string=f"{number[1]} ", attrs={"class": "number"}))
    part["id"], part["class"] = mark, " ".join([*filter(None, part.get_attribute_list("class")), "part"])
    return part


def _heading(section: Tag) -> str:
    """The first heading of a section, without its sign."""
    heading = section.find(re.compile(r"h[1-6]"))
    words = heading.find_all(string=True) if heading else []
    return "".join(word for word in words if not word.find_parent(class_="headerlink")).strip()


def _stand_still(page: BeautifulSoup, slider: Tag) -> None:
    """A slider as the picture that it shows first, with the place that is shown."""
    said, count = _one(slider, "label").get_text(strip=True), len(slider.select("img"))
    shown = _one(slider, "img:not([hidden])")
    shown["alt"] = f"{slider.get('aria-label', '')} Shown is {shown['alt']}.".strip()
    caption = page.new_tag(
        "figcaption", string=f"{said}: {_one(slider, 'output').get_text()}. One of {count} pictures on the site."
    )
    slider.clear()
    slider.attrs = {"class": "printed"}
    slider.extend([shown, caption])


def _as_figure(page: BeautifulSoup, picture: Tag) -> None:
    """A picture with the heading above it as its caption."""
    figure = page.new_tag("figure", attrs={"class": "printed"})
    title = _heading(_there(picture.find_parent("section"), "a section around a picture"))
    picture.wrap(figure)
    figure.append(page.new_tag("figcaption", string=f"{title}{'' if title.endswith('?') else '.'}"))


def _contents(page: BeautifulSoup, parts: Iterable[Tag]) -> Tag:
    """A list of the parts."""
    contents = page.new_tag("ul", attrs={"class": "parts"})
    for part in parts:
        line = page.new_tag("li")
        line.append(page.new_tag("a", string=_one(part, "h2").get_text(), attrs={"href": f"#{part['id']}"}))
        contents.append(line)
    return contents


def _lead(part: Tag, path: str, pages: Mapping[str, str], known: set[str]) -> None:
    """Have links and pictures lead where they led: to places on this page if they are here, else to the other pages."""
    for element in part.select("[href], [src]"):
        attribute = "href" if element.has_attr("href") else "src"
        address, place = urldefrag(str(element[attribute]))
        if urlparse(address).scheme:
            continue
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), address)) if address else path
        here = f"{pages[there]}-{place}" if there in pages and place else pages.get(there, "")
        whole = f"{there}#{place}" if place else there
        element[attribute] = f"#{here}" if here in known else whole
