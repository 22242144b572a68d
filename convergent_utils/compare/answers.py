"""The answers of comparisons in words, by plain rules that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from ..kernels.intervals import network_interval
from .compared import Compared, Number
from .explained import MARGIN, RULES, SAME_SPACE, SAME_UNITS, pair_name

_FEW = 6  # names that are listed
_OF_UNTRAINED = "untrained networks were not measured, so what architecture and inputs alone give is not known"


@dataclass(frozen=True)
class Answer:
    """One question with its answer.

    Attributes:
        question: it.
        verdict: the answer in a few words.
        sentence: the same with its numbers and baselines.
        rule: what the words of the verdict mean.
    """

    question: str
    verdict: str
    sentence: str
    rule: str


class Numbers:
    """All numbers of some comparisons, by pair of networks, pair of layers, similarity and role."""

    def __init__(self, comparisons: Iterable[Compared]):
        self.comparisons = list(comparisons)
        self.cases = [(k, pair) for k, one in enumerate(self.comparisons) for pair in one.pairs]
        self._known = {
            (k, (n.layer_a, n.layer_b), n.similarity, n.role): n
            for k, one in enumerate(self.comparisons)
            for n in one.numbers
        }

    def of(self, case: tuple[int, tuple[str, str]], similarity: str, role: str = "found") -> Number | None:
        """The number of one pair of layers; None where there is none."""
        return self._known.get((*case, similarity, role))

    def all(self, similarity: str, role: str = "found") -> dict[tuple[int, tuple[str, str]], Number]:
        """The numbers of all pairs of layers that have one."""
        found = {case: self.of(case, similarity, role) for case in self.cases}
        return {case: number for case, number in found.items() if number is not None}

    def by_networks(self, similarity: str, role: str = "found") -> dict[tuple[str, str], float]:
        """The mean over layers of each pair of networks."""
        found: dict[tuple[str, str], list[float]] = {}
        for (k, _), number in self.all(similarity, role).items():
            found.setdefault((self.comparisons[k].a, self.comparisons[k].b), []).append(number.value)
        return {networks: fmean(values) for networks, values in found.items()}

    def networks(self) -> list[str]:
        """Names of all networks, in the order in which they come."""
        return list(dict.fromkeys(name for one in self.comparisons for name in (one.a, one.b)))

    def beyond_chance(self, case: tuple[int, tuple[str, str]], similarity: str) -> bool | None:
        """Whether the number is above that of every shuffle; None where nothing was shuffled."""
        chance = self.of(case, similarity, "finite sample")
        if chance is None or chance.p_value is None:
            return None
        shuffles = self.comparisons[case[0]].settings["shuffles"]
        return chance.p_value * (shuffles + 1) < 1.5


def answers(comparisons: Sequence[Compared]) -> list[Answer]:
    """One for each question.

    Args:
        comparisons: what `compare` returns.
    """
    numbers = Numbers(comparisons)
    made = (_space, _units, _neighbours, _depth)
    return [Answer(question, *make(numbers), rule) for make, (question, rule) in zip(made, RULES.items(), strict=True)]


def _space(numbers: Numbers) -> tuple[str, str]:
    cka, r2 = numbers.all("debiased CKA"), numbers.all("linear map")
    if not cka and not r2:
        return "Not known", "Neither debiased CKA nor a linear map was computed."
    kinds = {case: _space_of(numbers, case) for case in numbers.cases if case in cka or case in r2}
    said = [_mean(numbers, "linear map", "on other inputs a linear map explains R² of")] if r2 else []
    said += [_mean(numbers, "debiased CKA", "debiased CKA is")] if cka else []
    lacking = "" if cka and r2 else f" {'The linear map' if cka else 'Debiased CKA'} was not computed."
    more, untrained = _beside_untrained(numbers, ["debiased CKA", "linear map"])
    return f"{_counted(numbers, kinds)}{more}", f"{_sentence('; '.join(said))}{lacking}{untrained}"


def _space_of(numbers: Numbers, case: tuple[int, tuple[str, str]]) -> str:
    """What the rule says of one pair of layers."""
    r2, beyond = numbers.of(case, "linear map"), numbers.beyond_chance(case, "debiased CKA")
    if beyond is None:
        beyond = r2 is not None and r2.value > 0
    if not beyond:
        return "no shared space beyond chance"
    if r2 is None:
        return "alike beyond chance"
    if r2.value >= SAME_SPACE:
        return "the same space up to a linear map"
    return "part of a space" if r2.value > 0 else "alike beyond chance, but no linear map carries over to other inputs"


def _units(numbers: Numbers) -> tuple[str, str]:
    found = numbers.all("bipartite matching")
    if not found:
        return "Not known", "Units were not matched."
    turned = numbers.all("bipartite matching", "rotated").items()
    highest = {case: number.high for case, number in turned if number.high is not None}
    kinds = {case: _units_of(number.value, highest[case]) for case, number in found.items() if case in highest}
    said = _sentence(_mean(numbers, "bipartite matching", "Matched units correlate by"))
    more, untrained = _beside_untrained(numbers, ["bipartite matching"])
    if not kinds:
        return "Not known", f"{said} The rotated baseline was not computed, so no more can be said.{untrained}"
    if len(kinds) == 1:
        said += f" In any turn it is at most {_two(max(highest.values()))}."
    return f"{_counted(numbers, kinds)}{more}", f"{said}{untrained}"


def _units_of(found: float, highest: float) -> str:
    if found <= highest:
        return "no more alike than in a random basis"
    return "the same units" if found >= SAME_UNITS else "alike beyond a random basis"


def _neighbours(numbers: Numbers) -> tuple[str, str]:
    found = numbers.all("mutual k-NN")
    if not found:
        return "Not known", "Neighbours were not compared; that needs an aligned sample."
    kinds = {
        case: "the same neighbours more often than by chance" if more else "no more than by chance"
        for case in found
        if (more := numbers.beyond_chance(case, "mutual k-NN")) is not None
    }
    said = _sentence(_mean(numbers, "mutual k-NN", "The share of common neighbours (mutual k-NN) is"))
    more, untrained = _beside_untrained(numbers, ["mutual k-NN"])
    return f"{_counted(numbers, kinds)}{more}" if kinds else "Not known", f"{said}{untrained}"


def _depth(numbers: Numbers) -> tuple[str, str]:
    said, verdicts = [], []
    for similarity, of in (("debiased CKA", "spaces"), ("bipartite matching", "units")):
        by_pair: dict[tuple[str, str], list[float]] = {}
        for (_, pair), number in numbers.all(similarity).items():
            by_pair.setdefault(pair, []).append(number.value)
        if len(by_pair) < 2:
            continue
        means = {pair_name(pair): fmean(values) for pair, values in by_pair.items()}
        most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        verdicts.append(f"{of}: most in {most}, least in {least}")
        said.append(f"{similarity}: {_two(means[most])} in {most}, {_two(means[least])} in {least}")
    if not said:
        return "Not known", "Only one pair of layers was compared."
    return _capital("; ".join(verdicts)), _sentence("; ".join(said))


def _counted(numbers: Numbers, kinds: dict[tuple[int, tuple[str, str]], str]) -> str:
    """How often each was said, the most frequent first; with names of layers where it is of one pair of networks."""
    by_kind: dict[str, list[str]] = {}
    for (_, pair), kind in kinds.items():
        by_kind.setdefault(kind, []).append(pair_name(pair))
    if len(by_kind) == 1:
        return _capital(f"{next(iter(by_kind))}{'' if len(kinds) == 1 else f' in all {len(kinds)} {_things(numbers)}'}")
    said = []
    for kind, names in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        listed = f" ({', '.join(names)})" if len(numbers.comparisons) == 1 and len(names) <= _FEW else ""
        said.append(f"{kind} in {len(names)} of {len(kinds)} {_things(numbers)}{listed}")
    return _capital("; ".join(said))


def _things(numbers: Numbers) -> str:
    alone = len(numbers.comparisons) == 1
    return "layers" if alone and all(one == other for _, (one, other) in numbers.cases) else "pairs of layers"


def _mean(numbers: Numbers, similarity: str, words: str) -> str:
    """A mean over all cases, with its range or interval, and the means of its baselines."""
    found = [number.value for number in numbers.all(similarity).values()]
    text = f"{words} {_two(fmean(found))}{_range(numbers, similarity, found)}"
    beside = []
    for role in ("rotated", "layout", "untrained", "finite sample"):
        values = [number.value for number in numbers.all(similarity, role).values()]
        if values:
            part = "" if len(values) == len(found) else f" (in {len(values)} of {len(found)})"
            beside.append(f"{role} {_two(fmean(values))}{part}")
    return f"{text}, beside {', '.join(beside)}" if beside else f"{text}, without a baseline"


def _range(numbers: Numbers, similarity: str, found: list[float]) -> str:
    """What a mean is of, and how far it may move."""
    if len(numbers.comparisons) > 1:
        interval = _interval(numbers.networks(), numbers.by_networks(similarity), similarity)
        ends = "" if interval is None else f"; 95 % interval over networks {_two(interval[0])} to {_two(interval[1])}"
        return f" (mean over {len(numbers.by_networks(similarity))} pairs of networks{ends})"
    if len(found) == 1:
        return ""
    return f" ({_two(min(found))} to {_two(max(found))}, mean over {len(found)} {_things(numbers)})"


def _interval(
    names: list[str], by_networks: dict[tuple[str, str], float], similarity: str
) -> tuple[float, float] | None:
    """For other networks of the same kind; None where not all pairs of at least four were compared."""
    n = len(names)
    values = torch.full((n, n), torch.nan, dtype=torch.float64)
    for (a, b), value in by_networks.items():
        if a != b:
            values[names.index(a), names.index(b)] = values[names.index(b), names.index(a)] = value
    if n < 4 or values[~torch.eye(n, dtype=torch.bool)].isnan().any():
        return None
    if similarity == "linear map":
        found = network_interval(values)
    else:
        found = network_interval(values.clamp(-1, 1), scale="arctanh")
    return found.low, found.high


def _beside_untrained(numbers: Numbers, similarities: list[str]) -> tuple[str, str]:
    """Where it is more than untrained networks give, for the verdict; what is not known, for the sentence."""
    both = [
        [
            (found, base)
            for name in similarities
            if (found := numbers.of(case, name)) is not None
            and (base := numbers.of(case, name, "untrained")) is not None
        ]
        for case in numbers.cases
    ]
    both = [pairs for pairs in both if pairs]
    if not both:
        return "", f" {_sentence(_OF_UNTRAINED)}"
    more = sum(all(found.value >= base.value + MARGIN for found, base in pairs) for pairs in both)
    if len(both) == 1:
        return f"; {'' if more else 'not '}more than untrained networks", ""
    often = {0: "nowhere", len(both): "everywhere"}.get(more, f"in {more} of {len(both)}")
    return f"; more than untrained networks {often}", ""


def _two(value: float) -> str:
    """Two places, no minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _sentence(text: str) -> str:
    return f"{_capital(text)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
