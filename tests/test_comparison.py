"""Comparing two networks: every number by a call of the kernel, baselines where they belong, and plain refusals."""

import pytest
import torch
from torch import nn

import convergent_utils as cu
from convergent_utils.compare.cautions import cautions
from convergent_utils.compare.comparison import ROLES
from convergent_utils.compare.costs import affordable, said, seconds
from convergent_utils.compare.similarities import SIMILARITIES, matched_units

UNITS, INPUTS = 6, 240
QUICK = ["bipartite matching", "linear CKA", "debiased CKA", "mutual k-NN"]


class Two(nn.Module):
    """Two layers: the rows as they come, and a fixed mixture of them."""

    def __init__(self, seed, units=UNITS):
        super().__init__()
        self.early, self.late = nn.Identity(), nn.Linear(UNITS, units)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.late.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, rows):
        return self.late(self.early(rows))


def measured(*, folds=2, seed=0, shared=0.7, **options):
    """Networks a and b on inputs of their own, which partly agree."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, INPUTS, UNITS, generator=generator)
    inputs = {"a": rows[0], "b": shared * rows[0] + rows[1]}
    networks = {"a": Two(1), "b": Two(2)}
    return cu.measure(networks, inputs, ["early", "late"], folds=folds, progress=False, **options), inputs


@pytest.fixture(scope="module")
def found():
    """The measurement, and all of its comparison."""
    measurement, inputs = measured()
    return measurement, inputs, cu.compare(measurement, "a", "b", progress=False)


def both(pair, of):
    """The mean of both directions."""
    return (float(of(pair)) + float(of(pair.swap()))) / 2


def mean_match(matching):
    def mean(pair):
        found = cu.correlation(pair)
        return matching(found.matrix, live_a=found.live_a, live_b=found.live_b).mean

    return mean


def held_out(fit, other, mapping):
    return sum(float(mapping(f).r2_on(o)[0].mean()) for f, o in ((fit, other), (fit.swap(), other.swap()))) / 2


def direct(name, a, b):
    """A similarity of rows by calls of the kernels alone."""
    pair = cu.pair_moments(a, b)
    fit, other = cu.pair_moments(a[::2], b[::2]), cu.pair_moments(a[1::2], b[1::2])
    return {
        "semi-matching": lambda: both(pair, mean_match(cu.semi_matching)),
        "bipartite matching": lambda: both(pair, mean_match(cu.bipartite_matching)),
        "soft matching": lambda: cu.soft_matching(cu.correlation(pair).matrix).mean,
        "best rotation": lambda: (
            sum(
                float(cu.best_rotation(f).correlation_on(o).mean())
                for f, o in ((fit, other), (fit.swap(), other.swap()))
            )
            / 2
        ),
        "linear map": lambda: held_out(fit, other, cu.least_squares),
        "five units": lambda: held_out(fit, other, lambda one: cu.best_subset_mapping(one, 5)),
        "CCA": lambda: cu.cca(pair).similarity,
        "SVCCA": lambda: cu.svcca(pair).similarity,
        "PWCCA": lambda: cu.pwcca(pair).similarity,
        "linear CKA": lambda: cu.linear_cka(pair),
        "debiased CKA": lambda: cu.debiased_cka(a, b),
        "Procrustes": lambda: cu.procrustes(pair),
        "mutual information": lambda: information(a, b, pair),
        "mutual k-NN": lambda: cu.mutual_knn(a, b, k=10),
    }[name]()


def information(a, b, pair):
    index = cu.semi_matching(cu.correlation(pair).matrix).index
    return cu.mutual_information(a, b[:, index], bins=5).diagonal().mean()


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("layer", ["early", "late"])
def test_what_is_found_is_what_the_kernel_gives(found, name, layer):
    _, inputs, comparison = found
    a, b = inputs["a"], inputs["b"]
    if layer == "late":
        a, b = Two(1)(a).detach(), Two(2)(b).detach()
    value = comparison.values(name)[layer, layer]
    assert value == pytest.approx(float(direct(name, a, b)), abs=1e-5)


def test_each_number_stands_where_it_belongs(found):
    _, _, comparison = found
    assert {number.role for number in comparison.numbers} == set(ROLES) - {"layout", "untrained"}
    for name, similarity in SIMILARITIES.items():
        roles = {number.role for number in comparison.numbers if number.similarity == name}
        assert ("rotated" in roles) == (similarity.sees_units and similarity.needs == "pair")
        assert ("finite sample" in roles) == (similarity.needs != "folds")
    for number in comparison.numbers:
        assert (number.p_value is not None) == (number.role == "finite sample")
        assert number.low is None or number.low <= number.high
        if number.role in ("rotated", "finite sample"):
            assert number.low <= number.value <= number.high


def test_the_table_is_tidy(found):
    _, _, comparison = found
    table = comparison.table()
    columns = ["network_a", "network_b", "layer_a", "layer_b", "similarity", "role", "value", "low", "high", "p_value"]
    assert list(table.columns) == columns
    assert len(table) == len(comparison.numbers)
    assert not table.duplicated(["layer_a", "layer_b", "similarity", "role"]).any()
    assert table.value.notna().all()


def test_a_permuted_copy_is_matched_wholly_and_chance_is_not():
    rows = torch.randn(INPUTS, UNITS, generator=torch.Generator().manual_seed(1))
    inputs = {"a": rows, "b": 3 * rows.flip(1)}
    found = cu.measure(dict.fromkeys("ab", nn.Sequential(nn.Identity())), inputs, ["0"], progress=False)
    one = cu.compare(found, "a", "b", progress=False)
    for name in ("semi-matching", "bipartite matching", "soft matching", "best rotation", "linear map", "linear CKA"):
        assert one.values(name)["0", "0"] == pytest.approx(1, abs=1e-5)
    for number in one.numbers:
        if number.role == "calibrated":
            assert number.value > 0.9 or number.similarity == "mutual k-NN"
        if number.role == "finite sample":
            assert number.p_value == 1 / 20
    index, score = matched_units(found, "a.0", "b.0")
    assert index.tolist() == list(range(UNITS))[::-1]
    assert torch.allclose(score, torch.ones(UNITS, dtype=score.dtype))


def test_a_row_that_was_sampled_twice_counts_once():
    """Of one place, the sample takes the same row at every place of its grid: p values must not see more inputs."""
    p_values = []
    for seed in range(6):
        found, _ = measured(seed=seed, shared=0.0)
        assert len(found.sample_images) > INPUTS
        one = cu.compare(found, "a", "b", layers=[("early", "early")], similarities=QUICK, progress=False)
        p_values += [n.p_value for n in one.numbers if n.role == "finite sample"]
    assert sum(p_values) / len(p_values) > 0.25
    assert sum(p <= 0.05 for p in p_values) <= len(p_values) // 4


def test_layers_are_the_same_all_or_pairs(found):
    measurement, _, _ = found
    options = {"similarities": ["linear CKA"], "progress": False}
    everything = cu.compare(measurement, "a", "b", layers="all", **options)
    assert everything.pairs == tuple((one, other) for one in ("early", "late") for other in ("early", "late"))
    pairs = [("late", "early"), ("early", "late"), ("late", "early")]
    some = cu.compare(measurement, "a", "b", layers=pairs, **options)
    assert some.pairs == (("late", "early"), ("early", "late"))
    for pair, value in some.values("linear CKA").items():
        assert value == everything.values("linear CKA")[pair]


def test_layers_that_share_the_sample_alone_are_compared_on_it(found):
    measurement, inputs, _ = found
    assert not measurement.has_pair("a.early", "b.late")
    one = cu.compare(measurement, "a", "b", layers=[("early", "late")], similarities=QUICK, progress=False)
    late = Two(2)(inputs["b"]).detach()
    assert one.values("linear CKA")["early", "late"] == pytest.approx(float(direct("linear CKA", inputs["a"], late)))
    assert {n.role for n in one.numbers} >= {"found", "rotated", "finite sample"}


def test_a_map_has_every_layer_with_every_layer(found):
    _, _, comparison = found
    for name in ("linear CKA", "linear map", "mutual k-NN"):
        rows, columns, values = comparison.map_values(name)
        assert rows == columns == ["early", "late"]
        for layer in rows:
            at = rows.index(layer)
            assert float(values[at, at]) == pytest.approx(comparison.values(name)[layer, layer], abs=1e-5)
        assert values.isfinite().all()


def test_one_fold_leaves_out_what_needs_two():
    measurement, _ = measured(folds=1)
    one = cu.compare(measurement, "a", "b", similarities=["linear map", "linear CKA"], progress=False)
    assert not one.values("linear map")
    assert len(one.values("linear CKA")) == 2
    assert [sentence for sentence in one.left_out if "linear map" in sentence]
    assert all(number.low is None for number in one.numbers if number.role == "found")


def test_untrained_and_layout_baselines():
    torch.manual_seed(0)
    networks = {name: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()) for name in "ab"}
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    found = cu.measure(networks, images, ["1"], untrained=True, progress=False)
    one = cu.compare(found, "a", "b", similarities=["bipartite matching"], progress=False)
    pair = found.pair("a-untrained.1", "b-untrained.1")
    match = mean_match(cu.bipartite_matching)
    assert one.values("bipartite matching", "untrained")["1", "1"] == pytest.approx(both(pair, match), abs=1e-6)
    layout = found.layout("a.1", "b.1")
    assert one.values("bipartite matching", "layout")["1", "1"] == pytest.approx(both(layout, match), abs=1e-6)
    assert not [sentence for sentence in one.cautions if "no untrained" in sentence]


def test_what_takes_too_long_is_left_out_and_named(found):
    measurement, _, _ = found
    one = cu.compare(measurement, "a", "b", minutes=1e-6, progress=False)
    assert not one.numbers
    assert "bipartite matching of early and early would take too long" in one.left_out
    assert not [sentence for sentence in one.left_out if "needs several folds" in sentence]
    kept, dropped = affordable({"dear": 5.0, "cheap": 1.0, "middle": 2.0}, 3.5)
    assert (kept, dropped) == (["cheap", "middle"], ["dear"])
    assert seconds("CCA", 1024, 2) > 6 * seconds("CCA", 512, 2)
    assert (said([60, 30]), said([120, 120])) == ("90 s", "4 min")


def test_the_same_seed_gives_the_same_numbers(found):
    measurement, _, _ = found
    options = {"similarities": ["bipartite matching"], "progress": False}
    one, same, other = (cu.compare(measurement, "a", "b", seed=seed, **options) for seed in (0, 0, 1))
    assert one == same
    assert one.values("bipartite matching", "rotated") != other.values("bipartite matching", "rotated")
    assert one.values("bipartite matching") == other.values("bipartite matching")


def test_flattened_cka_where_it_was_measured():
    measurement, _ = measured(flattened=True)
    one = cu.compare(measurement, "a", "b", similarities=["flattened CKA"], progress=False)
    values = one.values("flattened CKA")
    assert values["late", "late"] == pytest.approx(float(measurement.flattened.cka("a.late", "b.late")))
    assert not one.left_out


def test_progress_is_told(found):
    measurement, _, _ = found
    told = []
    cu.compare(measurement, "a", "b", similarities=["linear CKA"], progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (2, 2)


def test_cautions_name_dead_units_few_inputs_and_outliers():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 30, generator=generator)
    rows[:, 3] = 0
    spiked = rows.clone()
    spiked[7] += 1000
    inputs = {"a": rows, "b": spiked}
    found = cu.measure(dict.fromkeys("ab", nn.Sequential(nn.Identity())), inputs, ["0"], progress=False)
    text = cautions(found, "a", "b", [("0", "0")])
    assert [line for line in text if line.startswith("a.0: 1 of 30 units never change")]
    assert [line for line in text if "200 inputs for 29 units" in line]
    assert [line for line in text if line.startswith("b.0: 1 % of the sampled rows hold")]
    assert not [line for line in text if line.startswith("a.0: 1 %")]
    few, _ = measured()
    assert not [line for line in cautions(few, "a", "b", [("early", "early")]) if "inputs for" in line]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("measurement", {"measurement": None}),
        ("measurement", {"measurement": "x" * 1000}),
        ("a", {"a": "c"}),
        ("a", {"a": 3}),
        ("b", {"b": "a.early" * 100}),
        ("b", {"b": None}),
        ("layers", {"layers": "none"}),
        ("layers", {"layers": 3}),
        ("layers", {"layers": []}),
        ("layers", {"layers": ["early"]}),
        ("layers", {"layers": [("early", "x" * 500)]}),
        ("layers", {"layers": [(3, "early")]}),
        ("similarities", {"similarities": ["cosine"]}),
        ("similarities", {"similarities": 3}),
        ("similarities", {"similarities": [None]}),
        ("similarities", {"similarities": []}),
        ("turns", {"turns": 0}),
        ("turns", {"turns": 2.5}),
        ("shuffles", {"shuffles": 0}),
        ("shuffles", {"shuffles": "many"}),
        ("seed", {"seed": 1.5}),
        ("minutes", {"minutes": 0}),
        ("minutes", {"minutes": float("nan")}),
        ("minutes", {"minutes": "5"}),
        ("progress", {"progress": 3}),
    ],
)
def test_a_mistake_gets_a_sentence_that_names_it(found, name, options):
    given = {"measurement": found[0], "a": "a", "b": "b", "similarities": ["linear CKA"], "progress": False, **options}
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        cu.compare(given.pop("measurement"), given.pop("a"), given.pop("b"), **given)
    assert len(str(error.value)) <= 300


def test_layers_of_other_names_are_asked_for():
    rows = torch.randn(INPUTS, UNITS)
    layers = {"a": {"one": "0"}, "b": {"other": "0"}}
    pairs = [("a.one", "b.other")]
    networks = dict.fromkeys("ab", nn.Sequential(nn.Identity()))
    found = cu.measure(networks, rows, layers, pairs=pairs, progress=False)
    with pytest.raises(ValueError, match=r"^layers: 'a' and 'b' have none of the same name"):
        cu.compare(found, "a", "b")
    one = cu.compare(found, "a", "b", layers=[("one", "other")], similarities=["linear CKA"], progress=False)
    assert one.values("linear CKA")["one", "other"] == pytest.approx(1)


def saved(a, b, **options):
    """A measurement of activations of two networks."""
    layer = {"early": "0"}
    networks = {name: nn.Sequential(nn.Identity()) for name in "ab"}
    return cu.measure(networks, {"a": a, "b": b}, {"a": layer, "b": layer}, progress=False, **options)


@pytest.mark.parametrize("units", [1, 3])
def test_few_units_are_compared_by_all_that_can(units):
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(120, units, generator=generator), torch.randn(120, 8, generator=generator)
    found = cu.compare(saved(a, b), "a", "b", turns=2, progress=False)
    fit, other = (cu.pair_moments(a[k::2], b[k::2]) for k in (0, 1))
    one = cu.best_subset_mapping(fit, units).r2_on(other)[0].mean()
    back = cu.best_subset_mapping(fit.swap(), 5).r2_on(other.swap())[0].mean()
    assert found.values("five units")["early", "early"] == pytest.approx(float(one + back) / 2, abs=1e-6)
    lacking = [sentence for sentence in found.left_out if sentence.startswith("mutual k-NN")]
    assert bool(lacking) == (units == 1), "rows of one unit have all the same length"
    assert not [sentence for sentence in found.left_out if "k-NN" not in sentence and "flattened" not in sentence]


def test_a_layer_that_never_changes_leaves_the_others_alone():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
    found = cu.compare(saved(torch.ones(40, 5), rows), "a", "b", turns=2, progress=False)
    assert found.values("linear CKA") == {("early", "early"): 0.0}
    for sentence in found.left_out:
        assert len(sentence) < 300, sentence
    named = {name for name in SIMILARITIES if any(each.startswith(name) for each in found.left_out)}
    assert named | {name for name in SIMILARITIES if found.values(name)} == set(SIMILARITIES), "a number or a reason"


def test_one_that_cannot_be_shuffled_takes_no_baseline_from_the_others(monkeypatch):
    """Three inputs are too few for debiased CKA alone."""
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(6))
    found = cu.compare(saved(rows, rows.flip(1), folds=1, top=2), "a", "b", turns=2, progress=False)
    assert found.values("linear CKA", "finite sample")
    assert not found.values("debiased CKA", "finite sample")
    assert any(sentence.startswith("debiased CKA of early and early") for sentence in found.left_out)


def test_few_shuffles_are_cautioned_against(found):
    few = cu.compare(found[0], "a", "b", similarities="linear CKA", shuffles=3, turns=1, progress=False)
    assert any("no p value is below 0.25" in caution for caution in few.cautions)
    assert not any("p value" in caution for caution in found[2].cautions)
