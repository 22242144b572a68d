"""The last touch to the pages that Sphinx made: weight, previews for shared links, no script for icons."""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from html import escape, unescape
from pathlib import Path

_IMAGE, _ATTRIBUTE = re.compile(r"<img\b[^>]*>"), re.compile(r'\bsrc="([^"]*)"')
_ICONS = re.compile(r"[ \t]*<script[^>]*fontawesome\.js[^>]*></script>\n?")
_DATA = "data:image/png;base64,"
_UNUSED = ("scripts/fontawesome.js*", "**/*.js.map", "**/*.css.map", "locales", "*webpack-macros.html")  # in _static


def finish(site: Path, preview: Callable[[str, str], str]) -> None:
    """Make pages light: pictures in files and loaded when near; what no page needs goes.

    Args:
        site: the folder of the pages, which are changed.
        preview: given a page's name and title, what its head says to those who show a link to it.
    """
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).with_suffix("").as_posix()
        text = _ICONS.sub("", path.read_text(encoding="utf-8"))
        text = pictures_in_files(text, name, site)
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
        head = preview(name, unescape(" ".join(title[1].split()))) if title else ""
        path.write_text(text.replace("</head>", f"{head}</head>", 1), encoding="utf-8")
    for pattern in _UNUSED:
        for path in site.glob(f"_static/{pattern}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def pictures_in_files(text: str, name: str, site: Path) -> str:
    """A page whose pictures lie in files, have a size, and are loaded when they are near.

    Args:
        text: of the page.
        name: of the page within the site, without ending.
        site: its folder, into which pictures are written that the page holds.
    """
    up = "../" * name.count("/")

    def lazy(found: re.Match) -> str:
        """One picture."""
        tag, source = found[0], _ATTRIBUTE.search(found[0])
        if source and source[1].startswith(_DATA):
            data = base64.b64decode(source[1].removeprefix(_DATA))
            file = site / "_images" / f"{hashlib.sha256(data).hexdigest()[:20]}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
            tag = tag.replace(source[1], f"{up}_images/{file.name}")
            source = _ATTRIBUTE.search(tag)
        file = site / posixpath.normpath(posixpath.join(posixpath.dirname(name), source[1])) if source else site
        said = "" if "loading=" in tag else ' loading="lazy" decoding="async"'
        if "width=" not in tag and "width:" not in tag and (size := png_size(file)):
            said += ' width="{}" height="{}"'.format(*size)
        return f"<img{said}{tag.removeprefix('<img')}"

    return _IMAGE.sub(lazy, text)


def png_size(file: Path) -> tuple[int, int] | None:
    """Width and height of a picture in pixels; None where it is no PNG."""
    if file.suffix != ".png" or not file.is_file():
        return None
    with file.open("rb") as opened:
        start = opened.read(24)
    return struct.unpack(">II", start[16:24]) if start.startswith(b"\x89PNG") else None


def preview(name: str, title: str, descriptions: Mapping[str, str], address: str | None) -> str:
    """What the head of a page says to those who show a link to it.

    Args:
        name: of the page, without ending.
        title: of the page.
        descriptions: a sentence for each page, by name.
        address: where the site will lie; None: paths are relative to the page.
    """
    start = address.rstrip("/") + "/" if address else "../" * name.count("/")
    said = descriptions.get(name) or descriptions.get("index", "")
    properties = {
        "og:type": "article",
        "og:title": title,
        "og:description": said,
        "og:image": f"{start}_static/answer.png",
    }
    properties |= {"og:image:alt": "mean matched correlation, layer by layer"}
    properties |= {"og:url": f"{start}{name}.html"} if address else {}
    lines = [f'<meta property="{key}" content="{escape(value)}">' for key, value in properties.items()]
    lines.append(f'<meta name="description" content="{escape(said)}">')
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    return "\n".join(lines) + "\n"
