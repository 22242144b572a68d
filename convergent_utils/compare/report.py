"""Comparisons as one page that needs nothing else: answers, curves, maps, units, all numbers, and how to read them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from ..kernels.checks import came, in_one_line, shown
from . import costs
from .answers import Answer, Numbers, answers
from .collected import as_comparisons, as_json
from .compared import Compared, Number
from .exciting import units_part
from .explained import MEANINGS, ROLES, anchor, pair_name
from .page import escaped, linked, listed, page, table_of
from .pictures import CHOSEN, LOOKS, curve, layer_map, page_figure, page_style, svg, tree
from .similarities import SIMILARITIES, layers_of

_MAPS = ("linear CKA", "bipartite matching")
_PATIENCE = 60.0  # seconds that all maps of layers may take
_MOST_DRAWN = 3  # comparisons whose curves and maps are drawn
_LARGEST = 5_000_000  # bytes of a page
_SECTIONS = {
    "answer": "The answer",
    "curves": "Layer by layer",
    "maps": "Every layer with every layer",
    "units": "Units, and what excites them",
    "networks": "All pairs of networks",
    "cautions": "What to bear in mind",
    "all": "All numbers",
    "read": "How to read this page",
}


def save(
    comparisons: Compared | Iterable[Compared], path: str | Path, *, inputs: object = None,
    about: Mapping[str, str] | None = None, extra: Mapping[str, object] | None = None,
) -> Path:  # fmt: skip
    """Write comparisons as one HTML page that asks for nothing outside itself.

    Args:
        comparisons: what `compare` returns, or several of them in a list: of three networks and more, all pairs.
        path: of the file; it is replaced at once, when the page is whole.
        inputs: the inputs that were measured, by number, to show what excites units: `Inputs` of `load_inputs`, a
            function from numbers to a dict of them, a Dataset, or an array, tensor or list. Pictures are shown as
            (height, width, channels) uint8, or (channels, height, width) of floats; texts as text, or lists of tokens,
            in which the strongest is marked. None: numbers of inputs alone.
        about: what the networks and inputs are, a line each by name.
        extra: further settings that belong to the page, such as those of a command, by name.

    Returns:
        The path.

    Raises:
        ValueError: no comparisons, inputs that cannot be shown, a path that cannot be written.
    """
    given = as_comparisons(comparisons)
    lines, more = _as_lines(about, "about"), _as_lines(extra, "extra")
    path = as_page_path(path)
    units, lacking = units_part(given[0], inputs)
    text = _whole(given, units, lacking, lines, more)
    if len(text) > _LARGEST:
        units, _ = units_part(given[0], None)
        text = _whole(given, units, ["inputs are given by number alone, or the page would be too large"], lines, more)
    _write(text, path)
    return path


def _as_lines(lines: object, name: str) -> dict[str, object]:
    if lines is None:
        return {}
    if not isinstance(lines, Mapping):
        raise ValueError(f"{name}: expected a dict of a line by name, got {came(lines, 80)}")
    return dict(lines)


def as_page_path(path: object) -> Path:
    """Where a page can be written.

    Raises:
        ValueError: it cannot; said before anything is drawn.
    """
    if not isinstance(path, (str, Path)) or not str(path) or "\0" in str(path):
        raise ValueError(f"path: expected the path of a file, such as 'report.html', got {came(path, 80)}")
    path = Path(os.path.expanduser(path))
    if os.path.isdir(path):  # false, too, of a path too long
        raise ValueError(f"path: {shown(path)} is a folder; give the path of a file in it")
    if not os.path.isdir(path.parent):
        raise ValueError(f"path: there is no folder {shown(path.parent)}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path: expected a name that ends in .html, got {came(path.name, 80)}; numbers are in table()")
    return path


def _write(text: str, path: Path) -> None:
    """Under another name first, so that a reader never sees half a page."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.html")
    try:
        temporary.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))
        os.replace(temporary, path)
    except OSError as error:
        reason = in_one_line(error.strerror or error, 100)
        raise ValueError(f"path: cannot write {shown(path)}: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _whole(
    given: list[Compared], units: str, lacking: list[str], about: Mapping[str, object], extra: Mapping[str, object]
) -> str:
    """The page."""
    numbers, kept = Numbers(given), as_json(given)
    kept |= {"made": datetime.now(UTC).isoformat(timespec="seconds"), "about": about, "extra": extra}
    drawn, left_out = given[:_MOST_DRAWN], list(lacking)
    if len(given) > len(drawn):
        left_out.append(f"curves and maps are those of the first {len(drawn)} of {len(given)} pairs of networks")
    parts = {
        "answer": _answers(answers(given), numbers),
        "curves": _curves(drawn),
        "maps": _maps(drawn, left_out),
        "units": _units(given, units),
        "networks": _networks(numbers) if len(numbers.networks()) > 2 else "",
        "cautions": _cautions(given, left_out),
        "all": _all_numbers(numbers),
        "read": _how_to_read(numbers),
    }
    there = {name: text for name, text in parts.items() if text}
    links = "".join(f'<a href="#{name}">{_SECTIONS[name]}</a>' for name in there)
    title = (
        f"{' and '.join(numbers.networks()[:2])} compared"
        if len(given) == 1
        else f"{len(numbers.networks())} networks compared"
    )
    body = [_opening(title, numbers, kept), f"<nav>{links}</nav>"]
    body += [f'<section id="{name}"><h2>{_SECTIONS[name]}</h2>\n{text}\n</section>' for name, text in there.items()]
    return page(title, "\n".join(body), kept)


def _opening(title: str, numbers: Numbers, kept: Mapping[str, Any]) -> str:
    """What was compared, on what, when and with what."""
    when = kept["made"].replace("T", " ").replace("+00:00", " UTC")
    versions = ", ".join(f"{name} {found}" for name, found in kept["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in numbers.comparisons[0].settings.items())
    about = dict(kept["about"])
    lines = [
        f"<li><strong>{escaped(name)}</strong>: {_of_network(kept, name, about.pop(name, ''))}</li>"
        for name in numbers.networks()
    ]
    lines += [f"<li><strong>{escaped(name)}</strong>: {escaped(line)}</li>" for name, line in about.items()]
    counts = {"inputs": kept["inputs"], "folds": kept["folds"], "rows sampled": kept["sampled rows"]}
    measured = ", ".join([*(f"{count} {name}" for name, count in counts.items()), f"positions {kept['positions']}"])
    more = "".join(f"; {name} {value}" for name, value in kept["extra"].items())
    return (
        f"<h1>{escaped(title)}</h1>\n<ul>{''.join(lines)}</ul>\n"
        f'<p class="quiet">{escaped(f"{measured}. {settings}{more}. {versions}. Made {when}.")}</p>'
    )


def _of_network(kept: Mapping[str, Any], name: str, line: str) -> str:
    layers = kept["layers"][name]
    units = " to ".join(str(each) for each in sorted({min(layers.values()), max(layers.values())}))
    count = f"{len(layers)} layer{'s' * (len(layers) != 1)} of {units} units"
    return f"{escaped(line)}{'; ' if line else ''}{count}, weights <code>{escaped(kept['networks'][name][:12])}</code>"


def _answers(found: Iterable[Answer], numbers: Numbers) -> str:
    cards = [
        f'<div class="card"><h3>{escaped(one.question)}</h3><p class="verdict">{escaped(one.verdict)}.</p>'
        f'<p>{linked(one.sentence)}</p><p class="rule">{linked(one.rule)}</p></div>'
        for one in found
    ]
    n = len(numbers.networks())
    if n < 4:
        count = {2: "two", 3: "three"}.get(n, n)
        said = f"These are {count} networks. How far the numbers would move with others of their kind is not known."
    else:
        said = f"An interval is for other networks of the same kind, found by leaving out one of the {n} at a time."
    return f'<div class="cards">{"".join(cards)}</div>\n<p class="quiet">{said}</p>'


def _curves(given: Sequence[Compared]) -> str:
    parts = [_legend()]
    for number, one in enumerate(given):
        if len(given) > 1:
            parts.append(f"<h3>{escaped(one.a)} and {escaped(one.b)}</h3>")
        names = [name for name in CHOSEN if one.values(name)] or [name for name in MEANINGS if one.values(name)][:6]
        figures = []
        for k, name in enumerate(names):
            with page_style():
                figure = page_figure(4.6, 3.2)
                curve(figure.add_subplot(), one, name)
            said = f"{name} of {one.a} and {one.b}, layer by layer, beside its baselines; numbers in the table below"
            figures.append(f"<figure>{svg(figure, f'c{number}x{k}', escaped(said))}</figure>")
        parts.append(f'<div class="drawn">{"".join(figures)}</div>')
    return "\n".join(parts)


def _legend() -> str:
    """Each role with its colour, line and mark."""
    items, dashes = [], {"--": "6 3", ":": "2 3", "-": "none"}
    for role, look in LOOKS.items():
        color, dash = to_hex(look["color"]), dashes[look["linestyle"]]
        line = f'<line x1="1" y1="6" x2="39" y2="6" stroke="{color}" stroke-width="2.4" stroke-dasharray="{dash}"/>'
        mark = f'<circle cx="20" cy="6" r="3.4" fill="{color}"/>' if role == "found" else ""
        picture = f'<svg viewBox="0 0 40 12" aria-hidden="true">{line}{mark}</svg>'
        items.append(f'<li>{picture}<a href="#{anchor(role)}">{role}</a></li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _maps(given: Sequence[Compared], left_out: list[str]) -> str:
    """Maps of all layers, as far as they do not take too long; what is left out is added to the sentences."""
    parts, factor, spent = [], costs.speed(), 0.0
    for number, one in enumerate(given):
        figures, sizes = [], [len(layers_of(one.measurement, name)) for name in (one.a, one.b)]
        for k, name in enumerate(_MAPS if max(sizes) > 1 else ()):
            spent += _seconds(one, name, factor)
            if spent > _PATIENCE:
                said = "would take too long; Comparison.layer_map draws it"
                left_out.append(f"the map of {name} of {one.a} and {one.b} {said}")
                continue
            size = 2.2 + 0.4 * max(*sizes, 4)
            with page_style():
                figure = page_figure(size + 1.1, size)
                layer_map(one, name, figure.add_subplot())
            said = f"{name} of every layer of {one.a} with every layer of {one.b}"
            figures.append(f"<figure>{svg(figure, f'm{number}x{k}', escaped(said))}</figure>")
        parts += [f'<div class="drawn maps">{"".join(figures)}</div>'] if figures else []
    said = "Light: alike. Of the aligned sample, the same inputs and places in all layers; empty: none in common."
    return "\n".join([f"<p>{said}</p>", *parts]) if parts else ""


def _seconds(comparison: Compared, similarity: str, factor: float) -> float:
    """What a map will take, about."""
    measured, total = comparison.measurement, 0.0
    for one in layers_of(measured, comparison.a):
        for other in layers_of(measured, comparison.b):
            units = max(measured.blocks[f"{comparison.a}.{one}"], measured.blocks[f"{comparison.b}.{other}"])
            total += costs.seconds(similarity, units, 1, factor)
            total += 0.1 * factor * (units / 512) ** 2  # their moments
    return total


def _units(given: Sequence[Compared], units: str) -> str:
    of = f" of {escaped(given[0].a)} and {escaped(given[0].b)}" if len(given) > 1 else ""
    return (
        f"<p>Matched pairs of units{of} ({linked('bipartite matching')}): the best, one in the middle, and the worst, "
        "each with the inputs that excite it most, and how much. A frame marks the place on the layer’s map where "
        f"the unit answered; it sees more than what lies within.</p>\n{units}"
    )


def _networks(numbers: Numbers) -> str:
    """All pairs of networks in a table, and trees of networks."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    names, columns = numbers.networks(), [name for name in CHOSEN if numbers.all(name)]
    means = {name: numbers.by_networks(name) for name in columns}
    rows = [
        [
            one.a,
            one.b,
            *(f"{means[name][one.a, one.b]:.3f}" if (one.a, one.b) in means[name] else "" for name in columns),
        ]
        for one in numbers.comparisons
    ]
    parts = ["<p>Means over all pairs of layers that were compared.</p>"]
    parts.append(table_of(["network", "network", *columns], rows, numbers=2, name="All pairs of networks"))
    figures = []
    for k, similarity in enumerate(("bipartite matching", "debiased CKA")):
        distances = _distances(names, means.get(similarity, {}))
        if distances is None:
            continue
        with page_style():
            figure = page_figure(5.2, 1.2 + 0.32 * len(names))
            merges = linkage(squareform(distances, checks=False), "average")
            tree(figure.add_subplot(), merges, names, title=f"1 − {similarity}, mean over layers")
        said = f"tree of networks by {similarity}; the numbers are in the table above"
        figures.append(f"<figure>{svg(figure, f't{k}', escaped(said))}</figure>")
    if not figures:
        return "\n".join([*parts, "<p>Not every pair of networks was compared, so there is no tree.</p>"])
    said = (
        "Networks that are alike join early, further left; branches join at their average distance (average linkage). "
        "It sums up the table above. It is no pedigree: it does not say which network came from which, and with few "
        "networks a small difference can change the order in which they join."
    )
    return "\n".join([*parts, f'<div class="drawn maps">{"".join(figures)}</div>', f"<p>{said}</p>"])


def _distances(names: list[str], means: Mapping[tuple[str, str], float]) -> np.ndarray | None:
    """1 less the mean similarity of each pair of networks; None where one is lacking."""
    found = np.zeros((len(names), len(names)))
    for i, one in enumerate(names):
        for k, other in enumerate(names[:i]):
            value = means.get((one, other), means.get((other, one)))
            if value is None:
                return None
            found[i, k] = found[k, i] = max(0.0, 1 - value)
    return found


def _cautions(given: Sequence[Compared], left_out: list[str]) -> str:
    said = list(dict.fromkeys(sentence for one in given for sentence in one.cautions))
    missing = list(dict.fromkeys([*(sentence for one in given for sentence in one.left_out), *left_out]))
    parts = [listed(said) if said else "<p>Nothing was noticed that moves these numbers.</p>"]
    return "\n".join([*parts, *(["<h3>Left out</h3>", listed(missing)] if missing else [])])


def _all_numbers(numbers: Numbers) -> str:
    """A row for each similarity of each pair of layers."""
    roles = [role for role in ROLES if any(numbers.all(name, role) for name in MEANINGS)]
    several = len(numbers.comparisons) > 1
    rows = []
    for case in numbers.cases:
        one = numbers.comparisons[case[0]]
        for name in MEANINGS:
            found = {role: numbers.of(case, name, role) for role in roles}
            if any(found.values()):
                chance = found.get("finite sample")
                p_value = "" if chance is None or chance.p_value is None else f"{chance.p_value:.3g}"
                start = [f"{one.a}, {one.b}"] if several else []
                rows.append([*start, pair_name(case[1]), name, *map(_cell, found.values()), p_value])
    columns = [*(["networks"] if several else []), "layers", "similarity", *roles, "p"]
    said = (
        "In brackets: of what is found, its values on two parts of the inputs; of rotated, the smallest and the "
        "largest turn; of the finite sample, 95 % of all shuffles. p: how often shuffled inputs reach what is found."
    )
    name = "All numbers"
    return f"<p>{said}</p>\n{table_of(columns, rows, numbers=len(columns) - len(roles) - 1, name=name)}"


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    value = _three(number.value)
    if number.low is None or number.high is None:
        return value
    return f"{value} ({_three(number.low)} to {_three(number.high)})"


def _three(value: float) -> str:
    """Three places, no minus before zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def _how_to_read(numbers: Numbers) -> str:
    """Each similarity and each baseline in a sentence."""
    names = [name for name in MEANINGS if numbers.all(name)]
    turned = [name for name in names if name in SIMILARITIES and not SIMILARITIES[name].sees_units]
    parts = [
        "<p>No number stands alone: a similarity says something only beside what it would be without the thing that is "
        "asked about. These are the baselines:</p>",
        _explained(ROLES),
        "<p>And these are the similarities:</p>",
        _explained({name: MEANINGS[name].says for name in MEANINGS}),
    ]
    if turned:
        parts.append(f"<p>A rotation changes nothing for {', '.join(turned)}; they have no rotated baseline.</p>")
    return "\n".join(parts)


def _explained(sentences: Mapping[str, str]) -> str:
    items = (f'<dt id="{anchor(name)}">{name}</dt><dd>{escaped(text)}.</dd>' for name, text in sentences.items())
    return f"<dl>{''.join(items)}</dl>"
