import json
import re
from pathlib import Path

import nbformat
import pytest

from convergent_utils.edition import environment
from convergent_utils.edition.places import NOTEBOOKS, RESULTS, ROOT, notebook_names
from convergent_utils.edition.publish import claims_page, code_hash, in_colour, normalised, with_claims
from convergent_utils.edition.site import PAGES
from convergent_utils.paper.prepare import notebooks

NAMES = notebook_names()
EXERCISE = {"exercise", "solution", "check"}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)


def tags(cell):
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_this_code(name):
    book = read(name)
    assert book.metadata.get("convergent", {}).get("code") == code_hash(book), "run `make paper` and `make publish`"
    for cell in book.cells:
        if cell.cell_type == "code" and "live-only" not in tags(cell):
            assert cell.execution_count, f"never run: {cell.source[:60]}"


@pytest.mark.parametrize("name", NAMES)
def test_published_form(name):
    book = read(name)
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1_000_000
    assert set(book.metadata) == {"kernelspec", "language_info", "convergent"}
    text = json.dumps(book)
    assert "widget-view" not in text
    assert "injected-parameters" not in text
    assert not re.search(r"/(home|root|tmp|work|Users)/", text), "a path of the machine that ran it"


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    book = read(name)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    words = sum(len(cell.source.split()) for cell in book.cells if cell.cell_type == "markdown")
    assert max(len(cell.source.splitlines()) for cell in code) <= 20
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 100
    runs = "".join("c" if cell.cell_type == "code" else " " for cell in book.cells if not EXERCISE & {*tags(cell)})
    assert max(map(len, runs.split())) <= 3, "cells of code in a row, without prose"
    assert words >= 5 * sum(len(cell.source.splitlines()) for cell in code)
    assert re.match(r"# .*\?\n", book.cells[0].source), "a question as title"
    assert name in notebooks()
    used = [tag for cell in book.cells for tag in tags(cell)]
    assert used.count("parameters") == 1
    assert "claim" in used
    assert "live-only" in used
    assert any("kernel_free_slider(" in cell.source and "live-only" not in tags(cell) for cell in code), "no slider"
    assert used.count("exercise") == used.count("solution") == used.count("check") >= 3
    parameters = next(cell.source for cell in book.cells if "parameters" in tags(cell))
    assert all(re.match(r"\w+: \w+ = ", line) for line in parameters.splitlines()), "annotated literals"


def test_the_published_claims_stand_in_the_readme_and_on_a_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows, colour = json.loads((RESULTS / "claims.json").read_text(encoding="utf-8")), in_colour()
    assert with_claims(text, rows, colour) == text, "run `make publish`"
    assert (RESULTS / "claims.md").read_text(encoding="utf-8") == claims_page(rows, colour), "run `make publish`"
    assert {row["notebook"] for row in rows} == set(NAMES)
    assert (RESULTS / "answer.png").stat().st_size > 10_000
    assert {row["id"] for row in colour} <= {row["id"] for row in rows}
    agree = all(line["stable"] for line in json.loads((RESULTS / "stability.json").read_text(encoding="utf-8")))
    assert ("No answer was ever contradicted" in (PAGES / "claims.md").read_text(encoding="utf-8")) == agree


def test_the_readme_is_short_and_answers_in_two_sentences_that_are_claims():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text) < 9_000
    answer = re.search(r"\n\n(\*\*.*?)\n\n!\[", text, re.DOTALL)[1]
    sentences = re.findall(r"([A-Z][^<]+\.)(?:\*\*)? <!-- (.+?) -->", answer)
    assert len(sentences) == answer.count("<!--") == 2
    assert not re.sub(r"(\*\*)?[A-Z][^<]+\.(\*\*)? <!-- .+? -->", "", answer).strip(), "nothing else is said"
    rows = {row["id"]: row for row in json.loads((RESULTS / "claims.json").read_text(encoding="utf-8"))}
    colour = {row["id"]: row for row in in_colour()}
    for sentence, claims in sentences:
        for claim in claims.split("; "):
            id, _, said = claim.partition(" ")
            said, on_clothes, _ = said.partition(" on clothes")
            assert said == rows[id]["holds"], f"{id} {rows[id]['holds']} now: does the sentence still say so?"
            assert rows[id]["beyond_baseline"] == "yes", f"{id} is not beyond its baseline"
            assert (colour[id]["holds"] == said) == (not on_clothes), f"{id} in colour: {colour[id]['holds']}"
            assert not on_clothes or {"clothes", "photographs"} <= {*re.findall(r"\w+", sentence)}, "say which"
    lost, kept = ([found[id] for found in (rows, colour)] for id in ("08.same-up-to-linear", "02.mostly-space"))
    assert [f"{100 * row['ours']:.1f}" for row in lost] == re.findall(r"([\d.]+) points worse", answer)
    assert min(row["interval"][0] for row in kept) > 0.58
    assert "about three fifths or more" in answer


def test_environment_follows_pyproject():
    text = environment.environment((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == text
    for package in (
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "scikit-learn",
        "seaborn",
        "jupyterlab",
        "papermill",
        "ipywidgets",
    ):
        assert package in text


def test_torch_is_not_constrained():
    names = {re.split(r"[=<>]", line)[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not {"torch", "torchvision", "triton"} & names


def test_normalising_twice_changes_nothing():
    book = read(NAMES[0])
    once = normalised(book)
    assert nbformat.writes(normalised(nbformat.reads(nbformat.writes(once), 4))) == nbformat.writes(once)


def test_no_line_speaks_of_the_machine_that_wrote_it():
    for path in [
        *Path(ROOT / "convergent_utils").rglob("*.py"),
        *ROOT.glob("*.md"),
        *Path(ROOT / "tests").rglob("*.py"),
    ]:
        if path != Path(__file__):
            assert not re.search(r"[\"' (]/(root|work|farm)/", path.read_text(encoding="utf-8")), path
