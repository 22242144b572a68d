"""The page of a comparison: the numbers that were computed, words by their rules, and nothing from outside."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import convergent_utils as cu
from convergent_utils.compare.answers import answers
from convergent_utils.compare.collected import as_json, table
from convergent_utils.compare.comparison import Number
from convergent_utils.compare.exciting import as_picture, as_shown
from convergent_utils.compare.explained import MEANINGS, ROLES, anchor
from convergent_utils.compare.pictures import curves, layer_map, short_names
from convergent_utils.compare.report import save
from convergent_utils.compare.similarities import SIMILARITIES

UNITS, INPUTS = 8, 400
QUICK = ["bipartite matching", "linear map", "debiased CKA", "mutual k-NN"]
EVIL = "<b>bold</b> & \"quoted\" 'x' </script><script>alert(1)</script> $x^$"


def measured(rows, layers=("early",), **options):
    """A measurement of networks that give back their rows, plus a number for each further layer."""
    networks = {name: nn.Sequential(*(nn.Identity() for _ in layers)) for name in rows}
    names = {name: {layer: str(k) for k, layer in enumerate(layers)} for name in rows}
    return cu.measure(networks, rows, names, progress=False, **options)


def planted(kind, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(INPUTS, UNITS, generator=generator)
    b = {
        "permuted": lambda: a[:, torch.randperm(UNITS, generator=generator)],
        "turned": lambda: a @ cu.random_rotation(UNITS, seed=1).float(),
        "independent": lambda: torch.randn(INPUTS, UNITS, generator=generator),
    }[kind]()
    return cu.compare(measured({"a": a, "b": b}), "a", "b", progress=False, **options)


def answered(comparisons):
    return {answer.question: answer for answer in answers(comparisons)}


class Page(HTMLParser):
    """What stands in a page: tags with attributes, text, tables, and the JSON."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.rows, self.within, self.held = [], [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "path", "line", "circle", "use", "image", "rect"):
            self.within.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.within and self.within.pop()[0] != tag:
            pass

    def handle_data(self, data):
        names = [name for name, _ in self.within]
        if ("script", {"type": "application/json", "id": "numbers"}) in self.within:
            self.held += data
        elif "script" not in names and "style" not in names:
            self.words.append(data)
            if names and {"td", "th"} & set(names):
                self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def comparison():
    return planted("permuted")


def test_all_numbers_are_in_the_page(comparison, tmp_path):
    page = Page(comparison.save(tmp_path / "report.html"))
    held = json.loads(page.held)
    (one,) = held["comparisons"]
    assert tuple(Number(**number) for number in one["numbers"]) == comparison.numbers
    assert held["networks"] == dict.fromkeys(comparison.measurement.networks, "none"), "identities have no weights"
    assert held["layers"] == {"a": {"early": UNITS}, "b": {"early": UNITS}}
    assert held["versions"]["torch"] == torch.__version__
    assert one["settings"] == {"turns": 20, "shuffles": 19, "seed": 0}
    head = next(row for row in page.rows if "similarity" in row)
    for number in comparison.numbers:
        row = next(row for row in page.rows if len(row) > 1 and row[1] == number.similarity)
        assert row[head.index(number.role)].split()[0] == f"{round(number.value, 3) + 0.0:.3f}"


def test_json_and_table_of_several_are_those_of_each(comparison):
    kept = json.loads(json.dumps(as_json([comparison, comparison]), allow_nan=False))
    assert kept["comparisons"][0] == kept["comparisons"][1] == as_json(comparison)["comparisons"][0]
    assert len(table([comparison, comparison])) == 2 * len(comparison.numbers)


def test_a_permuted_copy_has_the_same_units_and_the_same_space(comparison):
    said = answered([comparison])
    assert said["Are their units the same?"].verdict == "The same units"
    assert said["Do they span the same space?"].verdict == "The same space up to a linear map"
    assert said["Do they find the same neighbours?"].verdict == "The same neighbours more often than by chance"
    assert "Only one pair" in said["At which depth are they most and least alike?"].sentence


def test_a_turned_copy_has_the_same_space_and_no_common_units():
    said = answered([planted("turned", similarities=QUICK)])
    assert said["Do they span the same space?"].verdict == "The same space up to a linear map"
    assert said["Are their units the same?"].verdict == "No more alike than in a random basis"


def test_independent_activations_have_nothing_in_common():
    said = answered([planted("independent", similarities=QUICK)])
    assert said["Do they span the same space?"].verdict == "No shared space beyond chance"
    assert said["Are their units the same?"].verdict == "No more alike than in a random basis"
    assert said["Do they find the same neighbours?"].verdict == "No more than by chance"


@pytest.mark.parametrize("seed", range(1, 6))
def test_words_follow_the_numbers(seed):
    """Whatever was found: the verdict is what the rule makes of the numbers that stand beside it."""
    one = planted("independent", seed, similarities=QUICK, turns=2)
    value, said = {(n.similarity, n.role): n for n in one.numbers}, answered([one])
    beyond = value["bipartite matching", "found"].value > value["bipartite matching", "rotated"].high
    assert ("beyond a random basis" in said["Are their units the same?"].verdict) == beyond
    shared = value["mutual k-NN", "finite sample"].p_value == 1 / 20
    assert ("more often" in said["Do they find the same neighbours?"].verdict) == shared


def test_a_missing_baseline_is_said(comparison, tmp_path):
    text = Page(comparison.save(tmp_path / "report.html")).text
    assert "Untrained networks were not measured" in text
    assert "no untrained networks were measured" in text
    one = planted("permuted", similarities=["debiased CKA"])
    said = answered([one])
    assert said["Are their units the same?"].verdict == "Not known"
    assert "linear map was not computed" in said["Do they span the same space?"].sentence
    assert said["Do they span the same space?"].verdict == "Alike beyond chance"


def test_untrained_networks_are_compared_with(tmp_path):
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(INPUTS, UNITS, generator=generator)
    rows = {"a": a, "b": a.flip(1), "a-untrained": a, "b-untrained": torch.randn(INPUTS, UNITS, generator=generator)}
    one = cu.compare(measured(rows), "a", "b", similarities=QUICK, progress=False)
    for question, answer in answered([one]).items():
        if "depth" not in question:
            assert answer.verdict.endswith("; more than untrained networks")
            assert "untrained 0." in answer.sentence or "untrained -" in answer.sentence


def test_depth_names_the_layers():
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, INPUTS, UNITS, generator=generator)

    class Two(nn.Module):
        def __init__(self, second):
            super().__init__()
            self.first, self.last, self.second = nn.Identity(), nn.Identity(), second

        def forward(self, rows):
            self.first(rows)
            return self.last(self.second.to(rows)[rows[:, 0].argsort().argsort()])

    order = a[:, 0].argsort()
    networks = {"a": Two(a[order]), "b": Two(b[order])}
    found = cu.measure(networks, a, ["first", "last"], batch=INPUTS, progress=False)
    one = cu.compare(found, "a", "b", similarities=QUICK, progress=False)
    said = answered([one])["At which depth are they most and least alike?"].verdict
    assert said == "Spaces: most in first, least in last; units: most in first, least in last"


def test_names_and_texts_are_shown_as_they_are(tmp_path):
    a = torch.randn(INPUTS, UNITS, generator=torch.Generator().manual_seed(5))
    layer = EVIL.replace("|", "")
    found = measured({EVIL.replace(".", ""): a, "b": a}, (layer,))
    one = cu.compare(found, next(iter(found.networks)), "b", similarities=QUICK, progress=False)
    path = one.save(tmp_path / "r.html", inputs=[f"{EVIL} {k}" for k in range(INPUTS)], about={EVIL: EVIL, "x": EVIL})
    page = Page(path)
    assert page.text.count("<b>bold</b> & \"quoted\" 'x'") > 5
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 2
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert json.loads(page.held)["about"] == {EVIL: EVIL, "x": EVIL}


def test_nothing_comes_from_outside_and_links_lead_somewhere(comparison, tmp_path):
    page = Page(comparison.save(tmp_path / "report.html", inputs=torch.rand(INPUTS, 3, 12, 12)))
    assert page.tags[0] == ("html", {"lang": "en"})
    targets = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(targets) == len(set(targets)), "two things of one name"
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            where = attributes.get(name, "#is-found")
            assert where.startswith(("#", "data:")), (tag, where)
            assert not where.startswith("#") or where[1:] in targets, where
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes.get("aria-label") or attributes.get("aria-hidden")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert {anchor(name) for name in [*MEANINGS, *ROLES]} <= set(targets)
    assert [tag for tag, _ in page.tags].count("img") == 3 * 2 * 5


def test_every_similarity_and_role_is_explained(comparison):
    assert set(SIMILARITIES) | {"flattened CKA"} == set(MEANINGS)
    assert {number.role for number in comparison.numbers} <= set(ROLES)


def test_the_page_stays_small(tmp_path):
    """Pictures as hard to compress as noise, in every unit's row."""
    a = torch.randn(INPUTS, UNITS, generator=torch.Generator().manual_seed(6))
    one = cu.compare(measured({"a": a, "b": a}), "a", "b", similarities=QUICK, progress=False)
    noise = np.random.default_rng(0).integers(0, 256, (INPUTS, 224, 224, 3), dtype=np.uint8)
    path = one.save(tmp_path / "report.html", inputs=noise)
    assert Page(path).text.count("input") > 0
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "inputs",
    [
        [f"text {k}" for k in range(INPUTS)],
        lambda numbers: {k: f"text {k}" for k in numbers},
        type("Shown", (), {"shown": lambda self, numbers: {k: f"text {k}" for k in numbers}})(),
        {k: f"text {k}" for k in range(INPUTS)},
    ],
)
def test_inputs_come_by_number(comparison, tmp_path, inputs):
    page = Page(comparison.save(tmp_path / "report.html", inputs=inputs))
    top = comparison.measurement.top("a.early").image.flatten().tolist()
    shown = [int(number) for number in re.findall(r"text (\d+) input", page.text)]
    assert len(shown) == 30
    assert set(shown) <= set(top) | set(comparison.measurement.top("b.early").image.flatten().tolist())


def test_the_strongest_token_is_marked(tmp_path):
    rows = torch.zeros(INPUTS, 6, UNITS)
    rows += torch.rand(rows.shape, generator=torch.Generator().manual_seed(7))
    rows[:, 4] += 5
    networks = {name: nn.Sequential(nn.Identity()) for name in "ab"}
    found = cu.measure(networks, rows, ["0"], axes="ntd", progress=False)
    one = cu.compare(found, "a", "b", similarities=["bipartite matching"], progress=False)
    words = ["The ", "cat ", "sat ", "<on> ", "the ", "mat"]
    path = one.save(tmp_path / "report.html", inputs=[words] * INPUTS)
    assert "sat &lt;on&gt; <mark>the </mark>mat</q>" in path.read_text(encoding="utf-8")
    assert "token 4" in Page(one.save(tmp_path / "plain.html", inputs=["".join(words)] * INPUTS)).text


def test_a_frame_marks_the_place(tmp_path):
    maps = torch.zeros(INPUTS, 4, 2, 5)
    maps += 0.1 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(8))
    maps[:, :, 1, 3] += 5
    networks = {name: nn.Sequential(nn.Identity()) for name in "ab"}
    found = cu.measure(networks, maps, ["0"], progress=False)
    one = cu.compare(found, "a", "b", similarities=["bipartite matching"], progress=False)
    path = one.save(tmp_path / "report.html", inputs=torch.zeros(INPUTS, 8, 8, 1, dtype=torch.uint8))
    assert 'style="top:50.00%;left:60.00%;height:50.00%;width:20.00%"' in path.read_text(encoding="utf-8")


def test_inputs_that_are_lacking_are_named(comparison, tmp_path):
    page = Page(comparison.save(tmp_path / "report.html", inputs=torch.rand(3, 3, 12, 12)))
    assert "excite units most were not given" in page.text
    assert comparison.save(tmp_path / "none.html", inputs=torch.rand(INPUTS, 7)).exists()


def test_four_networks_have_all_pairs_trees_and_intervals(tmp_path):
    generator = torch.Generator().manual_seed(9)
    a = torch.randn(INPUTS, UNITS, generator=generator)
    rows = {
        name: a + noise * torch.randn(INPUTS, UNITS, generator=generator)
        for name, noise in zip("abcd", (0, 0.3, 2, 1), strict=True)
    }
    found = measured(rows)
    all_pairs = [cu.compare(found, *pair, similarities=QUICK, progress=False) for pair in combinations("abcd", 2)]
    page = Page(save(all_pairs, tmp_path / "report.html"))
    assert "95 % interval over networks" in page.text
    assert [attributes.get("aria-label", "")[:16] for tag, attributes in page.tags].count("tree of networks") == 2
    for one in all_pairs:
        (value,) = one.values("bipartite matching").values()
        assert [one.a, one.b, f"{value:.3f}"] in [row[:3] for row in page.rows]
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    for one in all_pairs:
        i, k = "abcd".index(one.a), "abcd".index(one.b)
        matrix[i, k] = matrix[k, i] = next(iter(one.values("bipartite matching").values()))
    interval = cu.network_interval(matrix, scale="arctanh")
    assert f"{interval.low:.2f} to {interval.high:.2f}" in answered(all_pairs)["Are their units the same?"].sentence
    three = [one for one in all_pairs if "d" not in (one.a, one.b)]
    assert "interval over networks" not in answered(three)["Are their units the same?"].sentence
    text = Page(save(all_pairs[:2], tmp_path / "two.html")).text
    assert "Not every pair of networks was compared" in text
    assert "interval over networks" not in answered(all_pairs[:2])["Are their units the same?"].sentence


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("path", lambda one, folder: one.save(folder)),
        ("path", lambda one, folder: one.save(folder / "no" / "report.html")),
        ("path", lambda one, folder: one.save(folder / ("x" * 300))),
        ("path", lambda one, folder: one.save(3)),
        ("path", lambda one, folder: one.save("a\0b")),
        ("about", lambda one, folder: one.save(folder / "r.html", about="a line")),
        ("extra", lambda one, folder: save([one], folder / "r.html", extra=[1])),
        ("inputs", lambda one, folder: one.save(folder / "r.html", inputs=3)),
        ("inputs", lambda one, folder: one.save(folder / "r.html", inputs="folder:x")),
        ("inputs", lambda one, folder: one.save(folder / "r.html", inputs=lambda numbers: 1 / 0)),
        ("inputs", lambda one, folder: one.save(folder / "r.html", inputs=lambda numbers: [1])),
        ("comparisons", lambda one, folder: save([], folder / "r.html")),
        ("comparisons", lambda one, folder: save([one, 3], folder / "r.html")),
        ("comparisons", lambda one, folder: save(3, folder / "r.html")),
        ("similarities", lambda one, folder: one.figure(["none"])),
        ("similarities", lambda one, folder: one.figure(3)),
        ("similarities", lambda one, folder: one.figure(["flattened CKA"])),
        ("similarity", lambda one, folder: one.layer_map("none")),
    ],
)
def test_a_mistake_gets_a_sentence(comparison, tmp_path, name, call):
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        call(comparison, tmp_path)
    assert len(str(error.value)) <= 300
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_another_network_of_the_same_name_is_refused(comparison):
    other = planted("independent", similarities=QUICK)
    other.measurement.networks["a"] = "another"
    with pytest.raises(ValueError, match=r"^comparisons: expected one network of each name, got two of 'a'"):
        as_json([comparison, other])


def test_an_older_page_stays_whole_until_the_new_one_is(comparison, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ValueError, match=r"^path: cannot write .*No space left"):
        comparison.save(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_curves_draw_the_numbers(comparison):
    figure = curves(comparison, "bipartite matching")
    (ax,) = figure.axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.lines if not line.get_label().startswith("_")}
    values = {n.role: [n.value] for n in comparison.numbers if n.similarity == "bipartite matching"}
    assert drawn == {role: value for role, value in values.items() if role != "calibrated"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(drawn)[::-1]


def test_a_map_draws_its_values(comparison):
    ax = layer_map(comparison, "linear CKA")
    _, _, values = comparison.map_values("linear CKA")
    assert np.allclose(ax.collections[0].get_array(), values.numpy())
    assert ax.get_ylabel() == "a"


def test_where_two_layers_share_no_sample_the_map_is_empty():
    values = torch.tensor([[1.0, torch.nan], [0.5, torch.nan]], dtype=torch.float64)
    compared = SimpleNamespace(a="a", b="b", map_values=lambda name: (["0", "1"], ["0", "1"], values))
    ax = layer_map(compared, "linear CKA")
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.50"]


def test_names_are_shortened_where_they_still_differ():
    assert short_names(["model.layers.0", "model.layers.1"]) == ["0", "1"]
    assert short_names(["conv1"]) == ["conv1"]
    assert short_names(["a_very_long_name_of_a_layer"]) == ["a_very…_layer"]
    same = ["a_very_long_0_name_layer", "a_very_long_1_name_layer"]
    assert short_names(same) == same


def test_pictures_of_every_form():
    assert as_picture(torch.zeros(4, 5, 1, dtype=torch.uint8)).shape == (4, 5)
    assert as_picture(np.zeros((4, 5, 4), dtype=np.uint8)).shape == (4, 5, 3)
    assert as_picture(torch.rand(3, 4, 5)).shape == (4, 5, 3)
    assert as_shown(None, [1]) == {}
    assert as_picture(torch.full((1, 4, 5), 2.0)).tolist() == [[0] * 5] * 4
    for other in (
        torch.rand(7),
        torch.full((1, 4, 5), float("nan")),
        "text",
        None,
        torch.zeros(0, 4, 3, dtype=torch.uint8),
    ):
        assert as_picture(other) is None


def test_importing_draws_nothing():
    code = "import sys; from convergent_utils.compare.collected import as_json; print('matplotlib' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
