import json

import numpy as np
import pytest

import convergent_utils as cu
from convergent_utils.kernels.chance import Interval
from convergent_utils.paper import claims
from convergent_utils.paper.claims import (
    OWN,
    Ledger,
    above,
    as_rule,
    below,
    between,
    differences,
    side_by_side,
    verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "rule", "expected"),
    [
        (0.1, 0.3, above(0), "reproduced"),
        (-0.3, -0.1, above(0), "not reproduced"),
        (-0.1, 0.1, above(0), "open"),
        (0.1, 0.3, below(0.5), "reproduced"),
        (0.6, 0.9, below(0.5), "not reproduced"),
        (0.4, 0.6, below(0.5), "open"),
        (0.4, 0.6, between(0.3, 0.7), "reproduced"),
        (0.8, 0.9, between(0.3, 0.7), "not reproduced"),
        (0.6, 0.9, between(0.3, 0.7), "open"),
        (0.0, 0.0, above(0), "not reproduced"),
        (1.0, 1.0, above(0.999), "reproduced"),
    ],
)
def test_the_verdict_follows_from_interval_and_rule(low, high, rule, expected):
    interval = Interval((low + high) / 2, low, high)
    assert verdict(interval, rule, own=False) == expected
    own = {"reproduced": "new: holds", "not reproduced": "new: does not hold"}.get(expected, expected)
    assert verdict(interval, rule, own=True) == own
    assert verdict(interval, rule, own=False, stable=False) == "open"


def test_a_rule_can_be_read_back():
    for rule in (above(0.05), below(-0.5), between(-0.05, 1e-6), above(0)):
        assert as_rule(str(rule)) == rule
    for text in ("over 3", "between 1", "above 1 and 2", "hello", "above", "above three"):
        with pytest.raises(ValueError, match="expected above, below or between"):
            as_rule(text)


def test_an_interval_must_be_one():
    for low, high in ((1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="interval"):
            verdict(Interval(0.5, low, high), above(0), own=True)


def row(ledger, id="02.x", low=0.1, high=0.3, **more):
    ledger(id, "a statement", source="someone", ours=Interval(0.2, low, high), rule=above(0), **more)


def test_rows_are_written_with_the_contracted_keys(tmp_path, capsys):
    ledger = Ledger("02_matching", folder=tmp_path)
    row(ledger, published=0.123456789, baseline=0.0)
    row(ledger, "02.y", stable=False)
    rows = claims.gather(tmp_path)
    assert rows == json.loads((tmp_path / "results" / "claims.json").read_text())
    keys = {
        "id",
        "statement",
        "source",
        "paper_value",
        "our_value",
        "interval",
        "baseline",
        "rule",
        "notebook",
        "verdict",
    }
    assert keys <= set(rows[0])
    assert rows[0]["paper_value"] == 0.123457
    assert rows[0]["rule"] == "above 0"
    assert [r["verdict"] for r in rows] == ["reproduced", "open"]
    assert "reproduced" in claims.as_markdown(rows)
    assert "02.x" in claims.as_text(rows)


def test_ids_are_unique_and_numbers_finite(tmp_path):
    ledger = Ledger("02_matching", folder=tmp_path)
    row(ledger)
    with pytest.raises(ValueError, match="id: expected"):
        row(ledger)
    with pytest.raises(ValueError, match="id: expected"):
        row(ledger, "03.x")
    with pytest.raises(ValueError, match="finite"):
        row(ledger, "02.z", baseline=float("nan"))


def test_a_number_without_an_interval_stands_for_itself(tmp_path):
    ledger = Ledger("02_matching", folder=tmp_path)
    ledger("02.x", "a statement", source=OWN, ours=0.5, rule=above(0), baseline=Interval(0.1, 0.0, 0.2))
    row = claims.gather(tmp_path)[0]
    assert (row["our_value"], row["interval"], row["baseline"]) == (0.5, [0.5, 0.5], 0.1)
    assert row["verdict"] == "new: holds"
    with pytest.raises(ValueError, match="interval: expected two finite ends"):
        ledger("02.y", "a statement", source=OWN, ours=float("nan"), rule=above(0))


def test_the_smoke_profile_holds_claims_to_what_was_planted(tmp_path):
    ledger = Ledger("02_matching", profile="smoke", folder=tmp_path)
    row(ledger, smoke="reproduced")
    with pytest.raises(AssertionError, match=r"02\.y: .*expected 'not reproduced'"):
        row(ledger, "02.y", smoke="not reproduced")
    row(Ledger("02_matching", folder=tmp_path), smoke="not reproduced")


def test_the_gate(tmp_path):
    def made(**verdicts):
        return [
            {"id": f"02.{k}", "notebook": "02_m", "verdict": v, "our_value": 0.1, "interval": [0, 1], "rule": "above 0"}
            for k, v in verdicts.items()
        ]

    published = made(a="reproduced", b="open", c="not reproduced")
    assert differences(published, published, ["02_m"]) == ([], [])
    failures, notes = differences(made(a="not reproduced", b="reproduced", c="open"), published, ["02_m"])
    assert [text[:4] for text in failures] == ["02.a"]
    assert [text[:4] for text in notes] == ["02.b", "02.c"]
    failures, notes = differences(made(a="reproduced", b="open", d="open"), published, ["02_m"])
    assert [text[:4] for text in failures] == ["02.c"]
    assert [text[:4] for text in notes] == ["02.d"]
    assert differences([], published, ["00_networks"]) == ([], []), "a notebook that did not run is not judged"


def test_two_runs_side_by_side():
    def made(**numbers):
        verdicts = {k: "new: holds" if number > 0 else "open" for k, number in numbers.items()}
        return [
            {
                "id": k,
                "statement": f"is {k}",
                "our_value": v,
                "interval": [v, v],
                "baseline": 0.5,
                "verdict": verdicts[k],
            }
            for k, v in numbers.items()
        ]

    table = side_by_side({"here": made(a=1, b=1, c=1), "there": made(b=0, a=2)}).splitlines()
    assert table[0] == "| claim | here; baseline | there; baseline |"
    assert table[2:] == [
        "| is a | 1.000 [1.000, 1.000]; 0.5<br>new: holds | 2.000 [2.000, 2.000]; 0.5<br>new: holds |",
        "| is b | 1.000 [1.000, 1.000]; 0.5<br>**new: holds** | 0.000 [0.000, 0.000]; 0.5<br>**open** |",
    ]
    three = side_by_side({"here": made(a=1), "there": made(a=2), "elsewhere": made(a=0)}).splitlines()
    assert three[0].count("baseline") == 3
    assert three[2].count("**") == 4, "the first verdict and the one that differs from it"
    assert side_by_side({"here": made(a=1), "there": []}).count("\n") == 1


class Exchanged(cu.Network):
    """A network that answers for image k with what it computes of another image."""

    shift = 0

    def forward(self, images):
        return super().forward(images.roll(self.shift, 0))


@pytest.mark.parametrize(("exchanged", "expected"), [(False, "new: holds"), (True, "new: does not hold")])
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
    options = {"source": OWN, "ours": found, "baseline": Interval(0.0, -0.1, 0.1), "rule": above(0.05)}
    ledger("02.above-layout", "matches exceed what shuffled images give", **options)
    assert ledger.claims[0].verdict == expected
