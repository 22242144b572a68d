"""Types: what is said to the checker is said with its reason, and what docstrings say of tensors is what comes."""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from said_shapes import Unread, attributes_said, dims_of, members_said, require, returns_said, said_in, sizes

import convergent_utils as cu

PACKAGE = Path(cu.__file__).parent
SILENCED = re.compile(r"#\s*(?:ty|type|mypy|pyright|pyre)\s*:\s*ignore")
SILENCED_RIGHT = re.compile(r"# ty: ignore\[[a-z, -]+\]  # (?P<reason>.+)")
FEWEST_WORDS = 3


# what is said to the checker


def without_reason(source: str) -> list[str]:
    """Lines that silence the checker without rule or reason, and calls of `cast` without a comment that says why."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    lines, found = source.splitlines(), []
    for number, comment in comments.items():
        if SILENCED.search(comment):
            right = SILENCED_RIGHT.fullmatch(comment)
            if right is None or len(right["reason"].split()) < FEWEST_WORDS:
                found.append(f"{number}: {lines[number - 1].strip()}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _is_cast(node.func):
            said = " ".join(comments.get(number, "") for number in range(node.lineno, node.end_lineno + 1))
            if len(said.split()) <= FEWEST_WORDS:
                found.append(f"{node.lineno}: {lines[node.lineno - 1].strip()}")
    return found


def _is_cast(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr == "cast" and isinstance(called.value, ast.Name) and called.value.id == "typing"
    return isinstance(called, ast.Name) and called.id == "cast"


def test_whoever_silences_the_checker_says_of_what_and_why():
    files = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    some = {path: text for path, text in files.items() if SILENCED.search(text) or "cast(" in text}
    wrong = {str(path): lines for path, text in some.items() if (lines := without_reason(text))}
    assert not wrong, "write `# ty: ignore[rule]  # why in words`, and a comment beside each cast"


WRONG_LINES = (
    "a = b()  # ty: ignore",
    "a = b()  # ty: ignore[call]",
    "a = b()  # ty: ignore[call]  # why",
    "a = b()  # ty: ignore  # the stubs are wrong here",
    "a = b()  # type: ignore[call]  # the stubs are wrong here",
    'a = cast("int", b)',
    "a = typing.cast(int, b)  # why",
)
RIGHT_LINES = (
    "a = b()  # ty: ignore[not-callable]  # the stubs are wrong here",
    'a = cast("int", b)  # whatever came before is whole',
    "text = 'a = b()  # ty: ignore'",
    "a = b.cast(int)",
)


@pytest.mark.parametrize("line", WRONG_LINES)
def test_lines_without_rule_or_reason_are_found(line):
    assert without_reason(f"import typing\n{line}\n") == [f"2: {line}"]


@pytest.mark.parametrize("line", RIGHT_LINES)
def test_lines_with_both_are_left_alone(line):
    assert without_reason(f"{line}\n") == []


# what docstrings say of tensors


def kernels():
    """What the package gives of its kernels, by name."""
    named = {name: getattr(cu, name) for name in cu.__all__}
    return {name: one for name, one in named.items() if one.__module__.startswith("convergent_utils.kernels.")}


def said_of(name, one):
    """All that the docstrings of a function, or of a class and its methods, say of tensors."""
    if not inspect.isclass(one):
        return returns_said(name, one)
    return [*attributes_said(name, inspect.getdoc(one)), *members_said(name, one)]


SAID = {name: said_of(name, one) for name, one in kernels().items()}
# what begins like a shape and cannot be read
UNREAD = {"Chance.p_value": "a formula: how it is counted"}


def test_what_cannot_be_read_is_listed():
    found = {one.where for said in SAID.values() for one in said if isinstance(one, Unread)}
    assert found == set(UNREAD)


SIZES = {"samples": 48, "units_a": 5, "units_b": 7}


def planted(samples=48):
    """Activations of two nets that share three directions."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    of_shared = [torch.randn(3, units, generator=generator, dtype=torch.float64) for units in (5, 7)]
    noise = [0.1 * torch.randn(samples, units, generator=generator, dtype=torch.float64) for units in (5, 7)]
    return [shared @ weights + one for weights, one in zip(of_shared, noise, strict=True)]


# Each yields what came, by the place that says of what form it is, and numbers that names stand for there.


def similarities():
    (a, b), pair = planted(), cu.pair_moments(*planted())
    yield {name: getattr(cu, name)(pair) for name in ("linear_cka", "procrustes", "subspace_affinity")}, {}
    yield {"debiased_cka": cu.debiased_cka(a, b), "mutual_knn": cu.mutual_knn(a, b)}, {}
    yield {"subspace_overlap": cu.subspace_overlap(pair, [0, 1], [0, 1, 2])}, {"k": 2}
    yield {"PartialLeastSquares": cu.partial_least_squares(pair)}, {}
    streamed = cu.StreamingCKA({"a": 5, "b": 7}, rows=16).update({"a": a, "b": b})
    yield {"StreamingCKA.cka": streamed.cka("a", "b")}, {}
    maps = a[:, :, None, None].expand(-1, -1, 3, 4).permute(0, 2, 3, 1) * torch.rand(3, 4, 1, dtype=torch.float64)
    other = b[:, :, None, None].expand(-1, -1, 3, 4).permute(0, 2, 3, 1) * torch.rand(3, 4, 1, dtype=torch.float64)
    yield {"DFTCCA": cu.dft_cca(maps, other)}, {"height": 3, "width": 4, "channels_a": 5, "channels_b": 7}


def canonical_correlations():
    (a, b), pair = planted(), cu.pair_moments(*planted())
    for found in (cu.cca(pair), cu.svcca(pair, keep=0.9), cu.pwcca(pair)):
        of_samples = {"CCAResult.variates_a": found.variates_a(a), "CCAResult.variates_b": found.variates_b(b)}
        yield {"CCAResult": found, "CCAResult.rho_on": found.rho_on(pair), **of_samples}, {"k": len(found.rho)}
        yield {"CorrelationCount": cu.significant_correlations(found)}, {"k": len(found.rho)}


def matches():
    a, b = planted()
    pair, generator = cu.pair_moments(a, b), torch.Generator().manual_seed(1)
    score = cu.correlation(pair).matrix
    yield {"PairMoments": pair, "Correlation": cu.correlation(pair), "SoftMatch": cu.soft_matching(score)}, {}
    yield {"Match": cu.semi_matching(score)}, {}
    yield {"Match": cu.bipartite_matching(score.float())}, {}
    yield {"MaximumMatch": cu.maximum_match(a, b)}, {}
    third = torch.randn(48, 9, generator=generator, dtype=torch.float64)
    yield (
        {"Sharedness": cu.sharedness([pair, cu.pair_moments(a, third)], [pair, cu.pair_moments(a, third)])},
        {"nets": 2},
    )


def mappings():
    (a, b), pair = planted(), cu.pair_moments(*planted())
    match = cu.bipartite_matching(cu.correlation(pair).matrix)
    several = [cu.sparse_mapping(pair, [0.1, 0.2, 0.5]), cu.sgd_mapping(a, b, steps=[1, 2, 3], batch=8)]
    several += [cu.best_subset_mapping(pair, [1, 2, 4]), cu.least_squares(pair, ridge=[0.1, 0.2, 0.5])]
    for path in several:
        weights, offsets = path.weights_and_offsets()
        called = {"predict": path.predict(a), "r2_on": path.r2_on(pair), "weights_and_offsets": (weights, offsets)}
        yield {"MappingPath": path, **{f"MappingPath.{name}": each for name, each in called.items()}}, {"penalties": 3}
    for path in (cu.matching_map(pair, match), cu.unshrunk(cu.least_squares(pair), pair)):
        yield {"MappingPath": path}, {"penalties": 1}
    back = cu.least_squares(pair.swap())
    yield {"mapping_affinity": cu.mapping_affinity(cu.least_squares(pair), back)}, {}
    turned = cu.best_rotation(pair)
    yield {"Rotation": turned, "MappingPath": turned, "Rotation.correlation_on": turned.correlation_on(pair)}, {}


def clusters():
    pair = cu.pair_moments(*planted())
    affinity = cu.correlation_affinity(pair)
    yield {"correlation_affinity": affinity}, {}
    labels = cu.spectral_clustering(affinity, 3)
    yield {"spectral_clustering": labels}, {"units": 12}
    yield {"cluster_composition": cu.cluster_composition(labels, 5)}, {"n_clusters": 3}
    affinity[2] = affinity[:, 2] = 0
    embedding = cu.spectral_embedding(affinity, 4)
    yield {"SpectralEmbedding": embedding}, {"units": 12, "n_components": 4}
    tree = cu.hierarchical_clustering(embedding)
    yield {"MergeTree": tree, "MergeTree.labels": tree.labels(4)}, {"n_live": 11, "n_units": 12}
    yield {"crossing_share": cu.crossing_share(tree, 5)}, {}


def chances():
    a, b = planted()
    chance = cu.chance_level(lambda x, y: cu.correlation(cu.pair_moments(x, y)).matrix.amax(1), a, b, n_shuffles=6)
    yield {"Chance": chance}, {"n_shuffles": 6}
    found = cu.calibrated_map(cu.debiased_cka, [a, b], [b, a, a], n_shuffles=6)
    yield {"CalibratedMap": found}, {"layers_a": 2, "layers_b": 3, "n_shuffles": 6}


def information():
    a, b = planted()
    edges_a, edges_b = cu.bin_edges(a, bins=2, binning="quantile"), cu.bin_edges(b, bins=3)
    found = cu.JointHistogram(edges_a, edges_b)
    found.update(a, b)
    per_pair = found.mutual_information()
    yield {"JointHistogram": found, "JointHistogram.mutual_information": per_pair}, {"bins_a": 2, "bins_b": 4}
    yield {"mutual_information": cu.mutual_information(a, b, bins=2)}, {}
    yield {"BinEdges": edges_b, "BinEdges.codes": edges_b.codes(b)}, {"units": 7, "bins": 3}


def spaces():
    a, b = planted()
    space = cu.generalised_procrustes({("a", "b"): cu.pair_moments(a, b)}, dimensions=4)
    known = {"dimensions": 4}
    yield {"SharedSpace": space, "SharedSpace.between": space.between("a", "b")}, known
    yield {"SharedSpace.transform": space.transform("b", b.float())}, known
    yield {"random_rotation": cu.random_rotation(6, seed=0)}, {"units": 6}
    yield {"spatial_frequency": cu.spatial_frequency(torch.rand(6, 3, 5, 5))}, {"units": 6}


GROUPS = (similarities, canonical_correlations, matches, mappings, clusters, chances, information, spaces)


def checked(came, known):
    """That what came is as it is said, all within one set of names; what is said there, but for what is None."""
    found = []
    with sizes(**{**SIZES, **known}):
        for where, value in came.items():
            said = [one for one in SAID[where.partition(".")[0]] if not isinstance(one, Unread)]
            found += require([one for one in said if one.result == where], value)
    return found


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_docstrings_say_the_shapes_and_types_that_come(group):
    for came, known in group():
        checked(came, known)


def test_all_that_docstrings_say_of_tensors_is_looked_at():
    seen = {one for group in GROUPS for came, known in group() for one in checked(came, known)}
    said = {one for each in SAID.values() for one in each if not isinstance(one, Unread)}
    assert not said - seen
    assert len(said) > 80, "docstrings are read"


# whether a wrong one would be seen


class Planted(NamedTuple):
    """What is said of it is wrong in places.

    Attributes:
        matrix: (units_a, units_b) float64, right.
        turned: (units_b, units_a) float64.
        single: (units_a,) float32.
        shorter: (units_a - 1,) float64.
        first, second: (k,), (k,) float64, of unlike lengths.
        flag: 0-d bool.
    """

    matrix: torch.Tensor = torch.zeros(5, 7, dtype=torch.float64)
    turned: torch.Tensor = torch.zeros(5, 7, dtype=torch.float64)
    single: torch.Tensor = torch.zeros(5, dtype=torch.float64)
    shorter: torch.Tensor = torch.zeros(5, dtype=torch.float64)
    first: torch.Tensor = torch.zeros(3, dtype=torch.float64)
    second: torch.Tensor = torch.zeros(4, dtype=torch.float64)
    flag: torch.Tensor = torch.tensor(1.0)

    def halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both: halves (units_a,) and (units_b,) int64."""
        return torch.zeros(5, dtype=torch.int64), torch.zeros(7, dtype=torch.float64)


PLANTED = [*attributes_said("Planted", inspect.getdoc(Planted)), *members_said("Planted", Planted)]


def of_planted(*names):
    return [one for one in PLANTED if one.attribute in names]


@pytest.mark.parametrize("names", [("turned",), ("single",), ("shorter",), ("first", "second"), ("flag",)])
def test_a_wrong_shape_or_type_is_refused(names):
    with sizes(**SIZES):
        require(of_planted("matrix", *names[1:]), Planted())
        with pytest.raises(AssertionError, match=f"Planted.*{names[-1]}.*said"):
            require(of_planted(*names), Planted())


def test_a_wrong_type_of_one_of_two_is_refused():
    with sizes(**SIZES), pytest.raises(AssertionError, match="halves: said Int64.*units_b.*came .7,. torch.float64"):
        require([one for one in PLANTED if one.result == "Planted.halves"], Planted().halves())


@pytest.mark.parametrize(
    ("text", "dims", "dtype"),
    [
        ("(units_a, units_b) float64 in [0, 1]", ("units_a", "units_b"), "float64"),
        ("(n_live - 1, 4) float64, scipy's", ("n_live - 1", "4"), "float64"),
        ("(min(units_a, units_b),) int64", ("min(units_a, units_b)",), "int64"),
        ("(n_shuffles, ...) float64", ("n_shuffles", "..."), "float64"),
        ("(units_a,) the dtype of float64 scores", ("units_a",), None),
        ("0-d float64, the mean", (), "float64"),
        ("0-d, the mean", (), None),
    ],
)
def test_shapes_are_read(text, dims, dtype):
    (said,) = said_in(text, "here")
    assert (said.dims, said.dtype) == (dims, dtype)


def test_several_are_read_in_the_order_of_their_names():
    one, other = said_in("(units_a, k), (units_b,) bool, rows", "here", ["a", "b"])
    assert (one.attribute, one.dims, other.attribute, other.dims) == ("a", ("units_a", "k"), "b", ("units_b",))
    assert {one.dtype, other.dtype} == {"bool"}
    both = said_in("0-d float64 in [0, 1]", "here", ["a", "b"])
    assert [said.attribute for said in both] == ["a", "b"]


@pytest.mark.parametrize("text", ["(the smaller rank,) float64", "(units_a + units_b) squared", "(a, b), (c,), (d,)"])
def test_what_looks_like_a_shape_and_is_none_is_not_passed_over(text):
    (found,) = said_in(text, "here", ["one", "two"])
    assert isinstance(found, Unread)


def test_words_are_no_dimensions():
    assert dims_of("(see below, k)") is None
    assert said_in("how many of (units_a,) float64", "here") == []
