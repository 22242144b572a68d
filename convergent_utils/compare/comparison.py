"""Two networks compared: every similarity beside its baselines, as a table, a picture, a map of layers, a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.chance import Chance, chance_level
from ..kernels.checks import as_count, as_list, as_seed, came, in_one_line, require_known
from ..kernels.moments import PairMoments, pair_moments
from ..nets.layers import require_named
from ..nets.measurement import Measurement
from ..nets.progress import Progress, reporting
from ..nets.untrained import untrained_of
from .cautions import cautions, of_few
from .compared import Number
from .costs import affordable, seconds, speed
from .similarities import (
    SIMILARITIES,
    View,
    can_see,
    halves,
    layers_of,
    layout_view,
    rotated_views,
    shuffled_view,
    similarity_map,
    view_of,
)
from .threads import side_by_side

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = ("found", "rotated", "layout", "untrained", "finite sample", "calibrated")
_FLATTENED = "flattened CKA"
_NO_MAPS = f"{_FLATTENED} was not measured; ask for it by flattened=True"
_MOST = 100_000  # turns, or shuffles
_OF_ROWS = ("pair", "rows")  # what similarities need that the sample's rows give
_REFUSED = (ValueError, torch.linalg.LinAlgError)  # as of very few rows, or of units that never change


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds: each similarity of each two layers, beside its baselines.

    Attributes:
        a, b: names of the networks.
        pairs: layers of a and b that were compared.
        numbers: all of them, each with what a row of `table` has.
        left_out: what was not computed, and why, a sentence each.
        cautions: what to bear in mind, a sentence each.
        settings: turns, shuffles and seed.
        measurement: what it was made of.
    """

    a: str
    b: str
    pairs: tuple[tuple[str, str], ...]
    numbers: tuple[Number, ...] = field(repr=False)
    left_out: tuple[str, ...]
    cautions: tuple[str, ...]
    settings: Mapping[str, int]
    measurement: Measurement = field(repr=False, compare=False)

    def values(self, similarity: str, role: str = "found") -> dict[tuple[str, str], float]:
        """A number by pair of layers, in their order; where it was not computed there is none."""
        return {(n.layer_a, n.layer_b): n.value for n in self.numbers if (n.similarity, n.role) == (similarity, role)}

    def table(self) -> pandas.DataFrame:
        """All numbers, one a row, as a pandas table.

        Returns:
            A table with these columns. network_a, network_b, layer_a, layer_b, similarity: what is compared, and how.
            role: "found", the name of a baseline ("rotated", "layout", "untrained", "finite sample"), or "calibrated",
            see `Chance.calibrated`. value: the number; of "rotated" the mean of all turns, of "finite sample" that of
            all shuffles. low, high: of "found" its values on the two halves of the inputs, of "rotated" the smallest
            and largest of all turns, of "finite sample" the 2.5 and 97.5 percentiles of all shuffles. p_value: of
            "finite sample", how often shuffled inputs reach what is found.
        """
        import pandas as pd

        rows = [{"network_a": self.a, "network_b": self.b, **vars(number)} for number in self.numbers]
        columns = ["network_a", "network_b", *Number.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns)

    def figure(self, similarities: Iterable[str] | None = None) -> Figure:
        """Curves over layers, each similarity beside its baselines.

        Args:
            similarities: their names; None: one for each question, see `compare`.
        """
        from .pictures import curves

        return curves(self, similarities)

    def layer_map(self, similarity: str = "linear CKA", *, ax: Axes | None = None) -> Axes:
        """Every layer of a with every layer of b, as the aligned sample has them.

        Args:
            similarity: the name of one, see `compare`.
            ax: where to draw; None: in a figure of its own.
        """
        from .pictures import layer_map

        return layer_map(self, similarity, ax)

    def map_values(self, similarity: str = "linear CKA") -> tuple[list[str], list[str], Tensor]:
        """Layers of a, layers of b, and the similarity of each with each, (layers_a, layers_b) float64.

        It is that of the aligned sample; NaN where two layers share no sample.
        """
        require_known(similarity, SIMILARITIES, "similarity")
        sides = layers_of(self.measurement, self.a), layers_of(self.measurement, self.b)
        return *sides, similarity_map(self.measurement, self.a, self.b, similarity)

    def save(self, path: str | Path, *, inputs: object = None, about: Mapping[str, str] | None = None) -> Path:
        """Write it as a page that needs nothing else, HTML, and return its path.

        Args:
            path: of the file.
            inputs: what was measured, or a function from numbers of inputs to a dict of them, to show what excites
                units: pictures (height, width, channels) uint8, or texts.
            about: what the networks and inputs are, a line each by name.

        Raises:
            ValueError: a path that cannot be written.
        """
        from .report import save

        return save([self], path, inputs=inputs, about=about)


def compare(
    measurement: Measurement, a: str, b: str, *, layers: str | Sequence[tuple[str, str]] = "same",
    similarities: Iterable[str] | None = None, turns: int = 20, shuffles: int = 19, seed: int = 0,
    minutes: float | None = None, progress: Progress = None,
) -> Comparison:  # fmt: skip
    """Compare two networks of a measurement by every similarity, each beside its baselines.

    Args:
        measurement: of both, see `measure`; with `untrained=True` the untrained baseline is there, too.
        a, b: names of networks.
        layers: "same": those of the same name; "all": each with each; or pairs of names.
        similarities: their names, such as "bipartite matching", "linear CKA" or "PWCCA"; the table of what is found has
            all names. "flattened CKA" needs `measure(..., flattened=True)`. None: all.
        turns: random rotations of either network whose mean is the rotated baseline, of similarities that see units.
        shuffles: of the rows of b in the aligned sample, for the finite-sample baseline, p values and calibrated
            scores; these have a meaning where shuffles + 1 is a multiple of 20.
        seed: of turns and shuffles.
        minutes: what is estimated not to fit into these is left out, the dearest first, and named.
        progress: see `measure`.

    Returns:
        Comparison. Layers whose moments were not measured together are compared on the aligned sample.

    Raises:
        ValueError: unknown networks, layers or similarities; layers that share neither moments nor a sample.

    Example:
        >>> import torch, convergent_utils as cu
        >>> networks = {name: cu.build_network("alexnet-narrow", seed=k) for k, name in enumerate("ab")}
        >>> measured = cu.measure(networks, torch.rand(64, 1, 28, 28), ["conv1", "fc6"], sample=256)
        >>> cu.compare(measured, "a", "b", similarities=["linear CKA"]).table().shape[1]
        10
    """
    turns, shuffles = (as_count(n, of, at_most=_MOST) for n, of in ((turns, "turns"), (shuffles, "shuffles")))
    seed = as_seed(seed)
    budget = _as_minutes(minutes)
    _require_networks(measurement, a, b)
    pairs, names = _as_pairs(measurement, a, b, layers), _as_similarities(similarities)
    kept, dropped = _afforded(measurement, a, b, pairs, names, turns, shuffles, budget)
    jobs = [
        partial(_numbers, measurement, a, b, pair, kept[pair], turns=turns, shuffles=shuffles, seed=seed)
        for pair in pairs
    ]
    numbers, left_out = [], []
    with reporting(progress, len(pairs), unit=" pairs of layers") as report:
        for done, (pair, (found, why)) in enumerate(zip(pairs, side_by_side(jobs), strict=True), start=1):
            numbers += found
            left_out += [f"{name} of {pair[0]} and {pair[1]}{said}" for name, said in (dropped[pair] | why).items()]
            if report is not None:
                report(done)
    flat, missing = _flattened(measurement, a, b, pairs) if _FLATTENED in names else ([], [])
    settings = {"turns": turns, "shuffles": shuffles, "seed": seed}
    said = [*cautions(measurement, a, b, pairs), *of_few(shuffles)]
    found = tuple(numbers + flat), tuple(left_out + missing), tuple(said)
    return Comparison(a, b, tuple(pairs), *found, settings, measurement)


def _afforded(
    measurement: Measurement, a: str, b: str, pairs: list[tuple[str, str]], names: list[str], turns: int, shuffles: int,
    budget: float | None,
) -> tuple[dict[tuple[str, str], list[str]], dict[tuple[str, str], dict[str, str]]]:  # fmt: skip
    """By pair of layers, the similarities that fit a budget in seconds; and those that do not, with the reason."""
    factor = 1.0 if budget is None else speed()
    wanted = {
        (pair, name): factor * _cost(measurement, a, b, pair, name, turns, shuffles)
        for pair in pairs
        for name in names
        if name != _FLATTENED
    }
    kept, dropped = affordable(wanted, float("inf") if budget is None else budget)
    late = " would take too long"
    return (
        {pair: [name for of, name in kept if of == pair] for pair in pairs},
        {pair: {name: late for of, name in dropped if of == pair} for pair in pairs},
    )


def _as_minutes(minutes: object) -> float | None:
    """In seconds."""
    if minutes is None:
        return None
    if not isinstance(minutes, (int, float)) or isinstance(minutes, bool) or not 0 < minutes < float("inf"):
        raise ValueError(f"minutes: expected a positive number, or None for no limit, got {came(minutes)}")
    return 60.0 * minutes


def _require_networks(measurement: object, a: object, b: object) -> None:
    if not isinstance(measurement, Measurement):
        raise ValueError(f"measurement: expected what `measure` returns, got {came(measurement, 80)}")
    for name, value in (("a", a), ("b", b)):
        require_named(value, measurement.networks, name, "there is no network", "Measurement.networks lists all")


def _as_pairs(measurement: Measurement, a: str, b: str, layers: object) -> list[tuple[str, str]]:
    """Pairs of layers that are compared."""
    of_a, of_b = layers_of(measurement, a), layers_of(measurement, b)
    if isinstance(layers, str):
        require_known(layers, ("same", "all"), "layers")
        if layers == "all":
            return list(product(of_a, of_b))
        same = [(name, name) for name in of_a if name in of_b]
        if not same:
            message = f"{came(a, 40)} and {came(b, 40)} have none of the same name"
            raise ValueError(f"layers: {message}; take 'all', pairs of names, or common names when measuring")
        return same
    found = []
    for pair in as_list(layers, "layers", "'same', 'all' or pairs of names"):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"layers: expected 'same', 'all' or pairs of names, got {came(pair, 80)} among them")
        for name, known, network in ((pair[0], of_a, a), (pair[1], of_b, b)):
            require_named(name, known, "layers", f"{came(network, 40)} has no layer", "or it was not measured")
        found.append(tuple(pair))
    if not found:
        raise ValueError("layers: expected at least one pair, got none")
    return list(dict.fromkeys(found))


def _as_similarities(similarities: str | Iterable[str] | None) -> list[str]:
    if similarities is None:
        return [*SIMILARITIES, _FLATTENED]
    given = [similarities] if isinstance(similarities, str) else as_list(similarities, "similarities", "their names")
    for name in given:
        require_known(name, (*SIMILARITIES, _FLATTENED), "similarities")
    if not given:
        raise ValueError("similarities: expected at least one name, or None for all, got none")
    return list(dict.fromkeys(given))


def _cost(
    measurement: Measurement, a: str, b: str, pair: tuple[str, str], name: str, turns: int, shuffles: int
) -> float:
    """Seconds, on a usual machine, of one similarity of a pair of layers with all its baselines."""
    units = max(measurement.blocks[f"{a}.{pair[0]}"], measurement.blocks[f"{b}.{pair[1]}"])
    found = SIMILARITIES[name]
    evaluations = 2 + (4 if found.needs == "pair" else 0)
    evaluations += 2 * turns if found.sees_units and found.needs == "pair" else 0
    evaluations += shuffles + 1 if found.needs != "folds" else 0
    return seconds(name, units, evaluations)


def _numbers(
    measured: Measurement, a: str, b: str, pair: tuple[str, str], names: list[str], *, turns: int, shuffles: int,
    seed: int,
) -> tuple[list[Number], dict[str, str]]:  # fmt: skip
    """All numbers of one pair of layers; and, by similarity, why it has none, or no baseline."""
    blocks = f"{a}.{pair[0]}", f"{b}.{pair[1]}"
    view, untrained = view_of(measured, *blocks), _untrained_view(measured, a, b, pair)
    seen, found, why = {"found": view, "layout": layout_view(measured, *blocks), "untrained": untrained}, [], {}
    for name in names:
        if not can_see(SIMILARITIES[name], view):
            why[name] = " needs several folds, an aligned sample, or more than one unit"
            continue
        try:
            found += [*_as_they_are(seen, pair, name), *_rotated(view, pair, name, turns, seed)]
        except _REFUSED as error:
            why[name] = f": {in_one_line(error, 150)}"
    by_chance, lacking = _by_chance(view, pair, [name for name in names if name not in why], shuffles, seed)
    return found + by_chance, why | lacking


def _as_they_are(seen: Mapping[str, View | None], pair: tuple[str, str], name: str) -> list[Number]:
    """A similarity of the networks, of shuffled inputs in closed form, and of untrained networks."""
    of, found = SIMILARITIES[name], []
    for role, view in seen.items():
        if view is not None and can_see(of, view) and (role != "layout" or of.needs == "pair"):
            ends = halves(view, of) if role == "found" else None
            low, high = (None, None) if ends is None else (min(ends), max(ends))
            found.append(Number(*pair, name, role, of.of(view), low, high))
    return found


def _untrained_view(measured: Measurement, a: str, b: str, pair: tuple[str, str]) -> View | None:
    blocks = f"{untrained_of(a)}.{pair[0]}", f"{untrained_of(b)}.{pair[1]}"
    return view_of(measured, *blocks) if all(block in measured.blocks for block in blocks) else None


def _rotated(view: View, pair: tuple[str, str], name: str, turns: int, seed: int) -> list[Number]:
    """The rotated baseline of a similarity of moments that sees units: either network turned, `turns` times."""
    of = SIMILARITIES[name]
    if of.needs != "pair" or not of.sees_units:
        return []
    ways = (view, view.other_way())
    values = [of.of(turned) for way in ways for turned in rotated_views(way, range(seed, seed + turns))]
    return [Number(*pair, name, "rotated", sum(values) / len(values), min(values), max(values))]


def _by_chance(
    view: View, pair: tuple[str, str], names: list[str], shuffles: int, seed: int
) -> tuple[list[Number], dict[str, str]]:
    """Baselines of shuffled rows, p values and calibrated scores, of the aligned sample; and which have none."""
    found, why = [], {}
    for needs, sides in (("rows", view.rows), ("points", view.points)):
        of = [name for name in names if SIMILARITIES[name].needs in (("points",) if needs == "points" else _OF_ROWS)]
        if sides is None or not of:
            continue
        base = pair_moments(*(side.double() for side in sides)) if needs == "rows" else None
        for together in (of, *([name] for name in of)):  # one by one where one of them stops all
            try:
                chance = chance_level(partial(_all_at_once, together, base), *sides, n_shuffles=shuffles, seed=seed)
            except _REFUSED as error:
                why |= {together[0]: f", by chance: {in_one_line(error, 150)}"} if together is not of else {}
                continue
            for number, name in enumerate(together):
                found += _chance_numbers(chance, number, pair, name)
            if together is of:
                break
    return found, why


def _all_at_once(names: list[str], base: PairMoments | None, rows_a: Tensor, rows_b: Tensor) -> Tensor:
    """Several similarities of rows in some order, whose moments in any order are `base`; None: of points."""
    seen = View(None, points=(rows_a, rows_b)) if base is None else shuffled_view(base, rows_a, rows_b)
    return torch.tensor([SIMILARITIES[name].of(seen) for name in names], dtype=torch.float64)


def _chance_numbers(chance: Chance, number: int, pair: tuple[str, str], name: str) -> list[Number]:
    mean, low, high, p_value = (float(part[number]) for part in (chance.mean, chance.low, chance.high, chance.p_value))
    numbers = [Number(*pair, name, "finite sample", mean, low, high, p_value)]
    if (len(chance.null) + 1) % 20 == 0 and name != "mutual information":
        numbers.append(Number(*pair, name, "calibrated", float(chance.calibrated()[number])))
    return numbers


def _flattened(measured: Measurement, a: str, b: str, pairs: list[tuple[str, str]]) -> tuple[list[Number], list[str]]:
    """CKA of whole maps, where it was measured, and a sentence where it was not."""
    numbers, missing, of_maps = [], [], measured.flattened
    if of_maps is None:
        return [], [_NO_MAPS]
    for pair in pairs:
        try:
            value = float(of_maps.cka(f"{a}.{pair[0]}", f"{b}.{pair[1]}"))
        except ValueError:
            missing.append(f"flattened CKA of {pair[0]} and {pair[1]} was not measured")
            continue
        numbers.append(Number(*pair, _FLATTENED, "found", value))
        try:
            of = f"{untrained_of(a)}.{pair[0]}", f"{untrained_of(b)}.{pair[1]}"
            numbers.append(Number(*pair, _FLATTENED, "untrained", float(of_maps.cka(*of))))
        except ValueError:
            pass
    return numbers, [_NO_MAPS] if len(missing) == len(pairs) else missing
