import json

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.edition.places import RESULTS
from convergent_utils.kernels.chance import Interval
from convergent_utils.paper import claims
from convergent_utils.paper.claims import (
    OWN,
    Ledger,
    above,
    as_rule,
    below,
    between,
    beyond_baseline,
    changes_at,
    differences,
    holds,
)
from convergent_utils.paper.tables import as_markdown, false_discovery_rate, holm, in_parts, side_by_side


@pytest.mark.parametrize(
    ("low", "high", "rule", "expected", "changes"),
    [
        (0.1, 0.3, above(0), "holds", (0.1,)),
        (-0.3, -0.1, above(0), "does not hold", (-0.1,)),
        (-0.1, 0.1, above(0), "imprecise", (-0.1, 0.1)),
        (0.4, 0.6, above(0.5), "borderline", (0.4, 0.6)),
        (0.2, 0.8, above(0.5), "imprecise", (0.2, 0.8)),
        (0.1, 0.3, below(0.5), "holds", (0.3,)),
        (0.6, 0.9, below(0.5), "does not hold", (0.6,)),
        (0.4, 0.6, below(0.5), "borderline", (0.4, 0.6)),
        (0.4, 0.6, between(0.3, 0.7), "holds", (0.4, 0.6)),
        (0.8, 0.9, between(0.3, 0.7), "does not hold", (0.8,)),
        (0.1, 0.2, between(0.3, 0.7), "does not hold", (0.2,)),
        (0.6, 0.9, between(0.3, 0.7), "borderline", (0.6, 0.9)),
        (0.0, 0.0, above(0), "does not hold", (0.0,)),
        (1.0, 1.0, above(0.999), "holds", (1.0,)),
    ],
)
def test_what_an_interval_says_of_a_rule(low, high, rule, expected, changes):
    interval = Interval((low + high) / 2, low, high)
    assert holds(interval, rule) == expected
    assert changes_at(interval, rule) == changes


def test_an_undecided_claim_is_borderline_when_its_interval_is_narrower_than_its_way_from_the_baseline():
    interval = Interval(0.5, 0.4, 0.6)
    assert holds(interval, above(0.5), 0.25) == "borderline"
    assert holds(interval, above(0.5), 0.35) == "imprecise", "the interval is wider than .15"
    assert holds(interval, above(0.5)) == holds(interval, above(0.5), 0.0) == "borderline"


@pytest.mark.parametrize(
    ("low", "high", "rule", "expected"),
    [
        (0.1, 0.3, above(5), "yes"),
        (-0.1, 0.3, above(5), "undecided"),
        (-0.3, -0.1, above(5), "no"),
        (0.0, 0.0, above(5), "no"),
        (0.1, 0.3, below(5), "no"),
        (-0.3, -0.1, below(5), "yes"),
        (0.1, 0.3, between(0, 1), "-"),
    ],
)
def test_beyond_the_baseline_is_in_the_direction_of_the_rule(low, high, rule, expected):
    assert beyond_baseline(Interval((low + high) / 2, low, high), rule) == expected
    assert beyond_baseline(None, rule) == "-"


def test_ours_and_the_baseline_are_compared_network_by_network(tmp_path, generator):
    """What both share of a network's whims is no doubt about their difference."""
    whims = 5 * torch.randn(6, generator=generator, dtype=torch.float64)
    ours = whims[:, None] + whims + 0.1 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    base = whims[:, None] + whims - 1
    found, before = cu.network_interval(ours), cu.network_interval(base)
    ledger = Ledger("02_matching", folder=tmp_path)
    ledger("02.x", "a statement", source=OWN, ours=found, baseline=before, rule=above(0))
    row, right = claims.gather(tmp_path)[0], cu.network_interval(ours - base)
    assert row["difference"] == pytest.approx([right.estimate, right.low, right.high], rel=1e-5)
    assert row["beyond_baseline"] == "yes"
    assert found.low < before.high, "the intervals themselves overlap"
    with pytest.raises(ValueError, match="^baseline: expected an interval that .* of the same networks"):
        ledger("02.y", "a", source=OWN, ours=found, baseline=cu.network_interval(base[:5, :5]), rule=above(0))
    with pytest.raises(ValueError, match="^baseline: expected an interval that"):
        ledger("02.z", "a", source=OWN, ours=Interval(0.0, -1.0, 1.0), baseline=before, rule=above(0))


def test_a_rule_can_be_read_back():
    for rule in (above(0.05), below(-0.5), between(-0.05, 1e-6), above(0)):
        assert as_rule(str(rule)) == rule
    for text in ("over 3", "between 1", "above 1 and 2", "hello", "above", "above three"):
        with pytest.raises(ValueError, match="expected above, below or between"):
            as_rule(text)


def test_an_interval_must_be_one():
    for low, high in ((1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="interval"):
            holds(Interval(0.5, low, high), above(0))


def row(ledger, id="02.x", low=0.1, high=0.3, **more):
    ledger(id, "a statement", source="someone", ours=Interval(0.2, low, high), rule=above(0), **more)


def test_rows_are_written_with_the_contracted_keys(tmp_path, capsys):
    ledger = Ledger("02_matching", folder=tmp_path)
    row(ledger, published=0.123456789, baseline=0.0, primary=True)
    row(ledger, "02.y", low=-0.3)
    row(ledger, "02.z", check=True)
    rows = claims.gather(tmp_path)
    assert rows == json.loads((tmp_path / "results" / "claims.json").read_text())
    contract = (
        "id notebook statement source published ours interval baseline rule holds beyond_baseline changes_at primary"
    )
    assert {*contract.split(), "check"} <= set(rows[0])
    assert rows[0]["published"] == 0.123457
    assert rows[0]["rule"] == "above 0"
    assert [r["holds"] for r in rows] == ["holds", "imprecise", "holds"]
    assert [r["beyond_baseline"] for r in rows] == ["yes", "-", "-"]
    assert [r["changes_at"] for r in rows] == [[0.1], [-0.3, 0.3], [0.1]]
    assert [r["primary"] for r in rows] == [True, False, False]
    assert [r["check"] for r in rows] == [False, False, True]
    assert [r["p_value"] is None for r in rows] == [False, False, True]
    whole = in_parts(rows)
    assert "The 1 primary claims" in whole
    assert "Of 1 secondary claims 0 are decided" in whole
    assert "02.x" in claims.as_text(rows)


def test_rules_have_thresholds_in_order():
    for ends in ((float("nan"), 1.0), (1.0, 0.0), (0.0, 0.0), (-np.inf, np.inf)):
        with pytest.raises(ValueError, match="^rule: expected a threshold, or two in order"):
            claims.Rule(*ends)


@pytest.mark.parametrize("text", ["", "[", '[{"id": "02.x", "verdict": "open"}]', "[1]", "{}x"])
def test_a_file_of_claims_that_is_none_is_refused_in_a_sentence(tmp_path, text):
    assert claims.read_rows(tmp_path / "claims.json") == []
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(ValueError, match="^claims.json: expected claims as this version writes them"):
        claims.read_rows(tmp_path / "claims.json")


def test_exact_numbers_are_no_tests(tmp_path):
    ledger = Ledger("02_matching", folder=tmp_path)
    ledger("02.x", "is |r| > 0", source=OWN, ours=0.0, rule=above(0))
    row(ledger, "02.y")
    rows = claims.gather(tmp_path)
    assert [r["p_value"] is None for r in rows] == [True, False]
    assert holm(rows) == ["02.y"]
    assert false_discovery_rate(rows) < 0.05
    assert r"is \|r\| > 0 | new |" in as_markdown(rows), "a bar would end the cell"


def test_ids_are_unique_and_numbers_finite(tmp_path):
    ledger = Ledger("02_matching", folder=tmp_path)
    row(ledger)
    with pytest.raises(ValueError, match="id: expected"):
        row(ledger)
    with pytest.raises(ValueError, match="id: expected"):
        row(ledger, "03.x")
    for name in ("baseline", "published"):
        for value in (float("nan"), "a"):
            with pytest.raises(ValueError, match=f"^{name}: expected a finite number"):
                row(ledger, "02.z", **{name: value})


def test_a_number_without_an_interval_stands_for_itself(tmp_path):
    ledger = Ledger("02_matching", folder=tmp_path)
    ledger("02.x", "a statement", source=OWN, ours=0.5, rule=above(0), baseline=0.1)
    row = claims.gather(tmp_path)[0]
    assert (row["ours"], row["interval"], row["baseline"]) == (0.5, [0.5, 0.5], 0.1)
    assert (row["holds"], row["beyond_baseline"]) == ("holds", "yes")
    for value in (float("nan"), None, "a"):
        with pytest.raises(ValueError, match="^ours: expected a finite number"):
            ledger("02.y", "a statement", source=OWN, ours=value, rule=above(0))


def test_the_smoke_profile_holds_claims_to_what_was_planted(tmp_path):
    ledger = Ledger("02_matching", profile="smoke", folder=tmp_path)
    row(ledger, smoke="holds")
    with pytest.raises(AssertionError, match=r"02\.y: .*expected 'does not hold'"):
        row(ledger, "02.y", smoke="does not hold")
    row(Ledger("02_matching", folder=tmp_path), smoke="does not hold")


def test_the_gate():
    def made(**words):
        return [
            {"id": f"02.{k}", "notebook": "02_m", "holds": v, "ours": 0.1, "interval": [0, 1], "rule": "above 0"}
            for k, v in words.items()
        ]

    published = made(a="holds", b="imprecise", c="does not hold")
    assert differences(published, published, ["02_m"]) == ([], [])
    now = made(a="does not hold", b="holds", c="borderline")
    failures, notes = differences(now, published, ["02_m"])
    assert [text[:4] for text in failures] == ["02.a"]
    assert [text[:4] for text in notes] == ["02.b", "02.c"]
    failures, notes = differences(now, published, ["02_m"], same=["02_m"])
    assert [text[:4] for text in failures] == ["02.a", "02.b", "02.c"], "the same networks must decide alike"
    failures, notes = differences(made(a="holds", b="borderline", d="holds"), published, ["02_m"], same=["02_m"])
    assert [text[:4] for text in failures] == ["02.c"]
    assert [text[:4] for text in notes] == ["02.b", "02.d"]
    assert differences([], published, ["00_networks"]) == ([], []), "a notebook that did not run is not judged"


def a_row(id, number, **more):
    word = "holds" if number > 0 else "does not hold" if number < 0 else "imprecise"
    row = {"id": id, "statement": f"is {id}", "source": "new", "published": None, "ours": number, "baseline": 0.5}
    row |= {"interval": [number, number], "rule": "above 0", "holds": word, "beyond_baseline": "yes", "p_value": 0.01}
    return {**row, "changes_at": [number], "primary": False, "check": False, **more}


def test_two_runs_side_by_side():
    def made(**numbers):
        return [a_row(k, number) for k, number in numbers.items()]

    table = side_by_side({"here": made(a=1, b=1, c=1), "there": made(b=0, a=2)}).splitlines()
    assert table[0] == "| claim | here; baseline | there; baseline |"
    assert table[2:] == [
        "| is a | 1.000 [1.000, 1.000]; 0.5<br>holds | 2.000 [2.000, 2.000]; 0.5<br>holds |",
        "| is b | 1.000 [1.000, 1.000]; 0.5<br>**holds** | 0.000 [0.000, 0.000]; 0.5<br>**imprecise** |",
    ]
    three = side_by_side({"here": made(a=1), "there": made(a=2), "elsewhere": made(a=0)}).splitlines()
    assert three[0].count("baseline") == 3
    assert three[2].count("**") == 4, "the first answer and the one that differs from it"
    assert side_by_side({"here": made(a=1), "there": []}).count("\n") == 1


def test_a_table_says_what_depends_on_the_images_and_what_the_baseline_does_as_well():
    rows = [a_row("a", 1.0), a_row("b", 1.0, beyond_baseline="no"), a_row("c", 0.0)]
    colour = [a_row("a", -1.0), a_row("b", 1.0), a_row("c", 1.0)]
    lines = as_markdown(rows, colour, survivors=["b"]).splitlines()[2:]
    assert ["**depends on the images**" in line for line in lines] == [True, False, False]
    assert lines[1].startswith("| *is b* | new |"), "greyed: the baseline does as well"
    assert r"**holds**\* | no" in lines[1]
    assert "**imprecise** | yes | 0 | 1.000 [1.000, 1.000]: holds, yes |" in lines[2]


def test_many_claims_at_once():
    """The procedures of Holm 1979 and of Benjamini and Hochberg 1995, by hand."""
    rows = [a_row(str(k), 1.0, p_value=p) for k, p in enumerate([0.04, 0.001, 0.02, 0.015])]
    assert holm(rows) == ["1", "3", "2", "0"], ".001 < .05/4, .015 < .05/3, .02 < .05/2, .04 < .05"
    assert holm([*rows, a_row("4", 0.0, p_value=0.3)]) == ["1"], ".015 is not below .05/4"
    assert false_discovery_rate([*rows, a_row("4", 0.0, p_value=0.3)]) == pytest.approx(0.04 * 5 / 4)
    assert false_discovery_rate([]) == 0
    assert holm([]) == []


@pytest.mark.parametrize("row", claims.read_rows(RESULTS / "claims.json"), ids=lambda row: row["id"])
def test_what_is_published_follows_from_its_own_numbers(row):
    """Both answers, the thresholds and the p-value, worked out again from the six digits of the row."""
    found, rule = Interval(row["ours"], *row["interval"]), as_rule(row["rule"])
    assert row["holds"] == holds(found, rule, row["baseline"])
    assert row["changes_at"] == list(changes_at(found, rule))
    difference = row["difference"] and Interval(*row["difference"])
    assert row["beyond_baseline"] == beyond_baseline(difference, rule)
    if difference is not None:
        assert row["difference"][0] == pytest.approx(row["ours"] - row["baseline"], rel=1e-4, abs=1e-5)
    assert (row["p_value"] is None) == (row["check"] or found.low == found.high)
    if row["p_value"] is not None and row["id"] != "00.equal-accuracy":  # whose interval is that of chi-squared
        assert (row["p_value"] < 0.05) == (row["holds"] in claims.DECIDED)


def test_seven_claims_are_primary():
    rows = claims.read_rows(RESULTS / "claims.json")
    assert {row["id"] for row in rows if row["primary"]} == {
        "01.spectra-identical", "02.beyond-rotated", "02.units-less-above", "04.five-refitted", "04.optimiser-share",
        "05.more-than-structure", "06.more-than-start",
    }  # fmt: skip
    assert {row["id"] for row in rows if row["check"]} == {
        "02.shuffle-undone", "03.copy-found", "04.copy-found", "05.copy-found", "06.copy-same", "07.copy-same",
        "07.toy", "08.copy-stitched", "09.copy-found", "10.planted-in-copy", "10.copy-joined", "10.by-hand",
        "11.turned-found", "11.unrelated-not-found", "11.one-place",
        "12.copy-exact", "12.padding", "12.noise-calibrated",
    }  # fmt: skip


class Exchanged(cu.Network):
    """A network that answers for image k with what it computes of another image."""

    shift = 0

    def forward(self, images):
        return super().forward(images.roll(self.shift, 0))


@pytest.mark.parametrize(("exchanged", "expected"), [(False, "holds"), (True, "does not hold")])
def test_a_claim_does_not_survive_shuffled_data(tmp_path, exchanged, expected):
    """Shuffled copies of one network match above their layout; when each sees other images, they do not."""
    original = cu.build_network("alexnet-narrow", seed=1)
    names, networks = ["net1", "net2", "net3", "net4"], {}
    for k, name in enumerate(names):
        networks[name] = cu.permuted_copy(original, seed=k)[0]
        networks[name].__class__ = Exchanged
        networks[name].shift = k if exchanged else 0
    images = cu.load_dataset("fashion-mnist", split="test", limit=1024).images
    measured = cu.measure(networks, images, ["conv2"], sample=10)

    def excess(a, b):
        whole, layout = (cu.correlation(m(f"{a}.conv2", f"{b}.conv2")).matrix for m in (measured.pair, measured.layout))
        return float(cu.bipartite_matching(whole).mean - cu.bipartite_matching(layout).mean)

    found = cu.network_interval(np.array([[excess(a, b) for b in names] for a in names]))
    ledger = Ledger("02_matching", folder=tmp_path)
    options = {"source": OWN, "ours": found, "baseline": 0.0, "rule": above(0.05)}
    ledger("02.above-layout", "matches exceed what shuffled images give", **options)
    assert ledger.claims[0].holds == expected
