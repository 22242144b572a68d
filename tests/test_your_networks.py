"""Notebook 12: its commands run, its cells run with transformers and without, and it trains nothing."""

import re
import shlex
import sys

import nbformat
import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils import cli
from convergent_utils.edition.places import NOTEBOOKS, ROOT

NAME = "12_your_networks"
SMALL = ["--turns", "2", "--similarities", "bipartite matching", "linear CKA"]


def cells():
    return nbformat.read(NOTEBOOKS / f"{NAME}.ipynb", 4).cells


def commands():
    """The commands that the text shows, word by word, without the first."""
    text = "\n".join(cell.source for cell in cells() if cell.cell_type == "markdown").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^convergent .+", text, re.MULTILINE)]


def by_id(id):
    return next(cell.source for cell in cells() if cell.id == id)


def test_each_command_of_the_text_writes_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(300, 6))
    for net in ("net1", "net2"):
        rows = {layer: shared @ generator.normal(size=(6, 8)) for layer in ("conv1", "fc7")}
        np.savez(tmp_path / f"{net}.npz", **rows)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    found = commands()
    assert len(found) == 2
    for arguments in found:
        few = [] if arguments[1].startswith("acts:") else ["--limit", "60"]
        assert cli.main([*arguments, *few, *SMALL]) == 0
        said = capsys.readouterr().out
        assert "report.html" in said
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["']https?:""", text)
        (tmp_path / "report.html").unlink()


def test_saved_activations_give_what_the_kernels_give(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    rows = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0))
    for net, side in zip(("net1", "net2"), rows, strict=True):
        np.savez(f"{net}.npz", fc7=side.numpy())
    arguments = ["compare", "acts:net1.npz", "acts:net2.npz", "--layers", "fc7", "--json", *SMALL]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    wanted = float(cu.linear_cka(cu.pair_moments(*rows)))
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", said)]
    assert min(abs(number - wanted) for number in numbers) < 1e-6


def text_cells():
    """All names after the cells on text."""
    namespace = {"seed": 0}
    exec(by_id("imports"), namespace)
    for id in ("sentences", "reader", "masked"):
        exec(by_id(id), namespace)
    return namespace


def test_without_transformers_the_cell_says_what_it_leaves_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    exec(by_id("gpt2"), text_cells())
    assert capsys.readouterr().out.splitlines()[-1].startswith("left out: two GPT-2")


@pytest.mark.networks
def test_with_transformers_padding_makes_two_language_models_alike(capsys):
    pytest.importorskip("transformers")
    exec(by_id("gpt2"), text_cells())
    with_padding, without = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert with_padding > without + 0.05
