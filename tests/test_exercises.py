"""Every check fails on the blank and on the mistakes of wrong_answers.py, and passes on the solution.

The notebooks are run here once, so their claims and live panels are looked at, too.
"""

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import numpy as np
import planted_run
import pytest
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from wrong_answers import WRONG

from convergent_utils.drawing import widgets
from convergent_utils.edition.places import NOTEBOOKS, RESULTS, ROOT, notebook_names

NAMES = notebook_names()
LEVELS = ("1. Read", "2. Compute", "3. Explore")
MISTAKES = [
    pytest.param(name, level, mistake, answer, id=f"{name}-{LEVELS[level]}-{mistake}")
    for name, exercises in WRONG.items()
    if name in NAMES
    for level, answers in enumerate(exercises)
    for mistake, answer in answers
]


@dataclass(frozen=True)
class Exercise:
    """An exercise and all names of the notebook as they are just before it."""

    blank: str
    solution: str
    check: str
    namespace: dict[str, Any]

    def is_right(self, answer):
        """Whether an answer that is one number, truth value or name is that of the solution.

        Some networks make the right answer of a mistake: the layer that was most alike before training may be the one
        that gained least.
        """
        found = []
        for source in (answer, self.solution):
            exec(compile(source, "answer", "exec"), namespace := copied(self.namespace))
            found.append(namespace.get("answer"))
        one = isinstance(found[0], (bool, str, int, np.generic)) and type(found[0]) is type(found[1])
        return bool(one and found[0] == found[1])

    def try_answer(self, answer):
        """Run an answer and then the check; what goes wrong in the answer itself is no verdict of the check."""
        namespace = copied(self.namespace)
        try:
            exec(compile(answer, "answer", "exec"), namespace)
        except AssertionError as error:
            raise RuntimeError("an answer asserts nothing") from error
        exec(compile(self.check, "check", "exec"), namespace)

    def refusal(self, answer):
        """The sentence with which the check refuses an answer."""
        with pytest.raises(AssertionError) as refused:
            self.try_answer(answer)
        return str(refused.value).strip()


def copied(namespace):
    """The same names, with arrays and tensors of their own, so that an answer that writes into them harms no other."""
    own = {np.ndarray: np.copy, torch.Tensor: torch.clone}
    return {name: own.get(type(value), lambda same: same)(value) for name, value in namespace.items()}


def tags(cell):
    return cell.metadata.get("tags", [])


def cells_of(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells


def exercise_at(cells, k):
    """Sources of the exercise, solution and check that begin at cell k."""
    triple = cells[k : k + 3]
    assert [tags(cell)[0] for cell in triple] == ["exercise", "solution", "check"], "a blank, its solution, its check"
    return [cell.source for cell in triple]


@dataclass(frozen=True)
class Ran:
    """What is kept of a notebook that ran: its exercises, and the function and controls of each live panel."""

    exercises: list[Exercise]
    panels: list[tuple[Callable[..., object], dict[str, list[object]]]]


def run_through(name, seed):
    """Run the code cells of a notebook on the planted networks, and keep its exercises and its panels."""
    namespace, exercises, panels = {"__name__": "__main__", "display": display}, [], []
    cells = [cell for cell in cells_of(name) if cell.cell_type == "code"]
    for k, cell in enumerate(cells):
        if "exercise" in tags(cell):
            exercises.append(Exercise(*exercise_at(cells, k), copied(namespace)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(widgets, "live_panel", lambda draw, controls, **_: panels.append((draw, controls)))
            patch.setattr(widgets, "kernel_free_slider", lambda *_, **__: None)  # drawn where the paper is run
            exec(compile(cell.source, f"{name}, code cell {k}", "exec"), namespace)
        if "parameters" in tags(cell):
            namespace |= {"profile": "smoke", "seed": seed}
    return Ran(exercises, [(draw, {control: list(values) for control, values in c.items()}) for draw, c in panels])


@pytest.fixture(scope="module")
def ran(smoke, base_seed, tmp_path_factory):
    """What is kept of a notebook, by its name; each notebook is run once, when it is first asked for."""
    plt.switch_backend("Agg")
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context():
        patch.chdir(ROOT)
        patch.setenv("CONVERGENT_BUILD", str(tmp_path_factory.mktemp("build")))  # where claims are written, too
        patch.setenv("CONVERGENT_STORE", str(smoke[0] / "store"))
        patch.setattr(plt, "show", lambda: plt.close("all"))
        yield cache(partial(run_through, seed=base_seed))


def test_mistakes_are_kept_for_notebooks_that_there_are():
    assert set(WRONG) <= set(NAMES), "tests/wrong_answers.py names a notebook that is gone"


@pytest.mark.parametrize("name", NAMES)
def test_three_levels_in_order(name):
    cells, found = cells_of(name), []
    for k, cell in enumerate(cells):
        if "exercise" in tags(cell):
            exercise_at(cells, k)
            prose = next(before.source for before in reversed(cells[:k]) if before.cell_type == "markdown")
            found.append(re.findall(r"^\*\*(\d\. \w+)\.?\*\*", prose, re.MULTILINE))
    assert found == [[level] for level in LEVELS], f"{name}: expected one exercise of each level, got {found}"


@pytest.mark.parametrize("name", NAMES)
def test_three_mistakes_are_kept_for_each_exercise(name):
    counts = [len({answer for _, answer in answers}) for answers in WRONG.get(name, [])]
    assert counts == [3, 3, 3], f"tests/wrong_answers.py: {name!r} needs three mistakes for each of its three exercises"
    assert all(mistake.strip() for answers in WRONG[name] for mistake, _ in answers), "say what the mistake is"


def claims(build, name):
    return json.loads((Path(build) / "results" / "rows" / f"{name}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", planted_run.NOTEBOOKS)
def test_a_second_run_makes_the_same_claims(smoke, ran, name):
    ran(name)
    first, second = claims(smoke[0] / "build", name), claims(os.environ["CONVERGENT_BUILD"], name)
    for row, again in zip(first, second, strict=True):
        assert again["interval"] == pytest.approx(row["interval"], rel=1e-4, abs=1e-6), row["id"]
        assert {**again, "interval": 0, "ours": 0, "baseline": 0} == {
            **row, "interval": 0, "ours": 0, "baseline": 0
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_claims_are_those_that_are_published(ran, name):
    ran(name)
    made = claims(os.environ["CONVERGENT_BUILD"], name)
    published = [row for row in json.loads((RESULTS / "claims.json").read_text("utf-8")) if row["notebook"] == name]
    for what in ("id", "statement", "source", "published", "rule", "primary", "check"):
        assert [row[what] for row in made] == [row[what] for row in published], "run `make paper` and `make publish`"
    said = {row["id"]: row["holds"] for row in made}
    assert said.get("02.shuffle-undone", "holds") == "holds", "the shuffle was planted"


def drawn(draw, chosen):
    """The picture of a choice; small, and without the panel's arranging, which takes most of the time."""
    figure, file = Figure(figsize=(10, 4), dpi=40, layout="none"), io.BytesIO()
    draw(figure, **chosen)
    figure.savefig(file, format="png", dpi="figure")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_panel_draws_each_choice_and_the_same_choice_alike(ran, name):
    assert ran(name).panels
    for draw, controls in ran(name).panels:
        first = {control: values[0] for control, values in controls.items()}
        picture = drawn(draw, first)
        for control, values in controls.items():
            pictures = {drawn(draw, {**first, control: value}) for value in values[1:]}
            assert len(pictures | {picture}) > 1, f"{control} changes nothing"
        assert drawn(draw, first) == picture


@pytest.mark.slow
@pytest.mark.parametrize("level", range(3), ids=LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_the_blank_is_refused_and_the_solution_accepted(ran, name, level):
    exercise = ran(name).exercises[level]
    assert exercise.refusal(exercise.blank), "the check says nothing"
    exercise.try_answer(exercise.solution)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level", "mistake", "answer"), MISTAKES)
def test_a_mistake_is_refused(ran, name, level, mistake, answer):
    exercise = ran(name).exercises[level]
    if LEVELS[level] == "1. Read" and exercise.is_right(answer):
        exercise.try_answer(answer)
    else:
        assert exercise.refusal(answer), f"the check does not say what is wrong: {mistake}"
