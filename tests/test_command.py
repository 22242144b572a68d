"""`convergent measure` and `convergent compare`: what they write, and what they say to a mistake."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import convergent_utils as cu
from convergent_utils import cli
from convergent_utils.compare import command, preparing

BOTH = ["compare", "acts:mine.npz", "acts:theirs.npz"]
QUICK = ["--turns", "2", "--shuffles", "19", "--sample", "200", "--similarities", "bipartite matching", "linear CKA"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, texts and activations of two networks, the second a permuted copy of the first."""
    made = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    (made / "pictures").mkdir()
    for number in range(40):
        pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(made / "pictures" / f"{number:02d}.png")
    (made / "sentences.txt").write_text("\n".join(f"sentence {'so ' * (k % 5)}{k}" for k in range(40)))
    rows = generator.normal(size=(300, 12)).astype(np.float32)
    np.savez(made / "mine.npz", early=rows, late=np.maximum(rows[:, :6], 0))
    order = generator.permutation(12)
    np.savez(made / "theirs.npz", early=rows[:, order], late=np.maximum(rows[:, :6][:, ::-1], 0))
    return made


@pytest.fixture(autouse=True)
def at_home(folder, monkeypatch, tmp_path):
    """Commands run where the data lie, with a store of their own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))


def said(capsys, *arguments):
    """What a command prints, once it went well."""
    assert cli.main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def numbers_of(found):
    """All numbers of what is printed as JSON, with the names of their networks."""
    return [{"a": one["a"], "b": one["b"], **number} for one in found["comparisons"] for number in one["numbers"]]


def refused(capsys, *arguments):
    """The one sentence to a mistake."""
    assert cli.main(list(arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("convergent: ")
    assert "\n" not in error, error
    assert len(error) <= 300 + len("convergent: "), error
    return error.removeprefix("convergent: ")


def test_saved_activations_are_compared(capsys, tmp_path):
    out = tmp_path / "report.html"
    printed = said(capsys, "compare", "acts:mine.npz", "acts:theirs.npz", "--out", str(out), *QUICK)
    assert str(out) in printed
    assert "mine" in out.read_text()
    found = json.loads(said(capsys, "compare", "acts:mine.npz", "acts:theirs.npz", "--out", str(out), "--json", *QUICK))
    numbers = [n for n in numbers_of(found) if n["role"] == "found" and n["similarity"] == "bipartite matching"]
    assert [n["layer_a"] for n in numbers] == ["early", "late"]
    assert all(n["value"] == pytest.approx(1, abs=1e-6) for n in numbers), "a permuted copy"


def test_what_is_measured_is_what_measure_finds(capsys, tmp_path, folder):
    out = tmp_path / "measured.safetensors"
    options = ["--layers", "conv1", "fc6", "--sample", "100", "--seed", "3", "--no-untrained", "--out", str(out)]
    said(
        capsys,
        "measure",
        "alexnet-narrow",
        "alexnet-narrow",
        "--names",
        "a",
        "b",
        "--data",
        "folder:pictures",
        *options,
    )
    found = cu.load(out)
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(p))) for p in sorted((folder / "pictures").iterdir())])
    networks = {name: cu.build_network("alexnet-narrow", seed=3 + k) for k, name in enumerate("ab")}
    wanted = cu.measure(networks, pictures[..., None], ["conv1", "fc6"], sample=100, seed=3)
    for layer in ("conv1", "fc6"):
        pair = f"a.{layer}", f"b.{layer}"
        assert torch.allclose(found.pair(*pair).cov_ab, wanted.pair(*pair).cov_ab, rtol=1e-6)
        assert torch.allclose(found.sample(pair[0]), wanted.sample(pair[0]), atol=1e-6)


def test_untrained_copies_are_measured_beside_unless_there_is_nothing_trained(capsys, tmp_path):
    out, weights = tmp_path / "measured.safetensors", tmp_path / "mine.safetensors"
    cu.save({"network": cu.build_network("alexnet-narrow", seed=5)}, weights)
    options = ["--data", "folder:pictures", "--layers", "fc6", "--out", str(out)]
    said(capsys, "measure", str(weights), *options)
    assert set(cu.load(out).networks) == {"mine", "mine-untrained"}
    one, other = (cu.load(out).mean_activation(f"mine{end}.fc6") for end in ("", "-untrained"))
    assert not torch.allclose(one, other), "drawn from another seed"
    said(capsys, "measure", str(weights), "--no-untrained", *options)
    assert set(cu.load(out).networks) == {"mine"}
    assert "untrained themselves" in said(capsys, "measure", "alexnet-narrow", *options)
    assert set(cu.load(out).networks) == {"alexnet-narrow"}


def test_a_few_layers_are_chosen_where_none_are_named(capsys, tmp_path):
    out = tmp_path / "measured.safetensors"
    said(capsys, "measure", "alexnet-narrow", "--data", "folder:pictures", "--no-untrained", "--out", str(out))
    layers = [block.partition(".")[2] for block in cu.load(out).order]
    assert 3 <= len(layers) <= 6
    assert layers[-1] == "fc8"


def with_positions():
    """As a transformer that adds the places of a table to its inputs, whatever their number."""
    from torch import nn

    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.one, self.two, self.three = nn.Embedding(28, 8), *(nn.Linear(8, 8) for _ in range(3))
            self.first = nn.Linear(28, 8)

        def forward(self, x):
            x = self.first(x[:, 0]) + self.places(torch.arange(x.shape[2]))[None]
            return self.three(self.two(self.one(x)))

    return Adds()


def test_layers_that_are_not_of_inputs_are_not_chosen(capsys, tmp_path):
    """Places are one and the same for all inputs; a network with such a table is measured all the same."""
    out = tmp_path / "measured.safetensors"
    spec = f"{__file__}:with_positions"
    said(capsys, "measure", spec, "--data", "folder:pictures", "--no-untrained", "--out", str(out))
    layers = [block.partition(".")[2] for block in cu.load(out).order]
    assert layers == ["first", "one", "two", "three"]


def test_layers_of_other_names_meet(capsys, tmp_path):
    out = tmp_path / "measured.safetensors"
    pair = ["--layers", "early=conv1,conv2", "late=fc6,fc7", "--positions", "mean", "--no-untrained"]
    said(capsys, "measure", "alexnet-narrow", "alexnet-narrow", "--data", "folder:pictures", *pair, "--out", str(out))
    assert cu.load(out).has_pair("alexnet-narrow-1.early", "alexnet-narrow-2.early")


def test_several_processes_and_the_store_give_the_same(capsys, tmp_path):
    common = ["compare", "alexnet-narrow", "alexnet-narrow", "--data", "folder:pictures", "--layers", "conv1", "fc6"]
    common += ["--no-untrained", "--out", str(tmp_path / "r.html"), "--json", *QUICK]
    one = json.loads(said(capsys, *common))
    again = json.loads(said(capsys, *common))
    two = json.loads(said(capsys, *common, "--processes", "2", "--store", str(tmp_path / "other")))
    values = [[n["value"] for n in numbers_of(found)] for found in (one, again, two)]
    assert values[0] == values[1]
    assert values[0] == pytest.approx(values[2], abs=1e-6)


def test_three_networks_are_compared_in_all_pairs(capsys, tmp_path):
    three = ["acts:mine.npz", "acts:theirs.npz", "acts:mine.npz"]
    out = ["--out", str(tmp_path / "r.html"), "--json", *QUICK]
    found = json.loads(said(capsys, "compare", *three, "--names", "a", "b", "c", *out))
    assert {(n["a"], n["b"]) for n in numbers_of(found)} == {("a", "b"), ("a", "c"), ("b", "c")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "alexnet", "--data", "folder:pictures"], "networks: expected two or more"),
        (["compare", "alexnet", "alexnet"], "data: expected what the networks are shown"),
        (["compare", "acts:mine.npz", "alexnet", "--data", "folder:pictures"], "networks: expected acts: of all"),
        ([*BOTH, "--data", "folder:pictures"], "data: saved activations"),
        (["compare", "acts:mine.npz", "acts:nowhere.npz"], "name: "),
        ([*BOTH, "--out", "nowhere/r.html"], "out: there is no folder"),
        ([*BOTH, "--names", "a"], "names: expected 2"),
        ([*BOTH, "--names", "a", "a"], "names: expected another"),
        (
            [*BOTH, "--names", "a.b", "c"],
            "networks: expected names without dots",
        ),
        ([*BOTH, "--layers", "nowhere"], "layers: "),
        ([*BOTH, "--layers", "x=early"], "layers: expected 2 names"),
        (
            [*BOTH, "--layers", "x=early,early", "late"],
            "layers: expected COMMON",
        ),
        ([*BOTH, "--layers", "lat?x*"], "layers: "),
        ([*BOTH, "--positions", "everywhere"], "positions: "),
        ([*BOTH, "--similarities", "likeness"], "similarities: "),
        ([*BOTH, "--minutes", "-1"], "minutes: "),
        ([*BOTH, "--minutes", "soon"], "argument --minutes: "),
        ([*BOTH, "--turns", "0"], "turns: "),
        ([*BOTH, "--shuffles", "0"], "shuffles: "),
        ([*BOTH, "--pairs", "some"], "argument --pairs: "),
        ([*BOTH, "--mask", "padding"], "mask: there is no 'padding'"),
        ([*BOTH, "--limit", "0"], "limit: "),
        ([*BOTH, "--batch", "0"], "batch: "),
        ([*BOTH, "--sample", "1"], "sample: "),
        ([*BOTH, "--seed", "-1"], "seed: "),
        ([*BOTH, "--processes", "0"], "processes: "),
        ([*BOTH, "--device", "abacus"], "device: "),
        (["measure", "alexnet", "--data", "folder:pictures", "--size", "0"], "size: "),
        (["measure", "alexnet", "--data", "folder:nowhere"], "name: "),
        (
            ["measure", "alexnet", "--data", "folder:pictures", "--out", "nowhere/m.safetensors"],
            "out: there is no folder",
        ),
        ([*BOTH, "--out", "pictures"], "out: 'pictures' is a folder"),
        ([*BOTH, "--out", "report.pdf"], "path: expected a name that ends in .html"),
        (["measure", "unheard", "--data", "folder:pictures"], "name: "),
        (["measure", "alexnet", "--data", "folder:pictures", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, named):
    assert refused(capsys, *arguments).startswith(named)


@pytest.mark.networks
@pytest.mark.parametrize("example", [line for line in command.EXAMPLES.splitlines() if line.startswith("  ")])
def test_the_examples_of_help_work(capsys, tmp_path, example):
    """As they stand, but for networks that are small and named here."""
    if "hf:" in example:
        pytest.importorskip("transformers")
        from transformers import GPT2Config

        for name in ("my-gpt2", "other-gpt2"):
            GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2).save_pretrained(tmp_path / name)
            example = example.replace(f"hf:{name}", f"hf:{tmp_path / name}")
    if "torchvision:" in example:
        pytest.importorskip("torchvision")
    program, *arguments = shlex.split(example)
    assert program == "convergent"
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "report.html")]
    said(capsys, *arguments, *QUICK)


@pytest.mark.networks
def test_texts_are_shown_as_the_tokens_that_the_networks_are_given(capsys, tmp_path):
    """The token that excites a unit most stands marked among its neighbours."""
    pytest.importorskip("transformers")
    from transformers import GPT2Config

    for name in ("one", "other"):
        GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2).save_pretrained(tmp_path / name)
    (tmp_path / "texts.txt").write_text("\n".join(f"the {k} cats sat on é mat" for k in range(40)))
    page = tmp_path / "report.html"
    arguments = ["compare", f"hf:{tmp_path}/one", f"hf:{tmp_path}/other", "--data", f"text:{tmp_path}/texts.txt"]
    said(capsys, *arguments, "--layers", "h.*", "--out", str(page), *QUICK)
    marked = re.findall(
        r"<q>(.*?)</q> <small>input (\d+), [^<]*, token (\d+)</small>", page.read_text(encoding="utf-8")
    )
    assert marked
    for text, number, token in marked:
        data = f"the {number} cats sat on é mat".encode()
        mark = re.search(r"<mark>(.*?)</mark>", text)[1]
        assert mark in ("", data[int(token) : int(token) + 1].decode(errors="ignore") or "é")


def test_pieces_are_what_networks_are_given():
    assert preparing.Bytes(256).pieces("é a") == ["é", "", " ", "a"]
    assert preparing.Bytes(256, 2).pieces("abc") == ["a", "b"]
    alike = [preparing.Bytes(256), preparing.Bytes(0)]
    assert preparing.in_pieces({3: "ab"}, alike) == {3: ["a", "b"]}
    assert preparing.in_pieces({3: "ab"}, [*alike, preparing.Bytes(0, 1)]) == {3: "ab"}
    assert preparing.in_pieces({3: "ab"}, [None, alike[0]]) == {3: "ab"}


def test_help_shows_the_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    printed = capsys.readouterr().out
    for kind in ("folder:", "text:", "acts:"):
        assert kind in printed.partition("examples:")[2]
