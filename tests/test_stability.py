import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from convergent_utils.cli import main
from convergent_utils.edition import stability as module
from convergent_utils.edition.places import RESULTS
from convergent_utils.edition.site import PAGES
from convergent_utils.edition.stability import SEEDS, compared, stability

KINDS = {"primary": False, "check": False}


def row(id, value, *, notebook="00_x", holds="holds"):
    numbers = {"ours": value, "interval": [value - 1, value + 1], "rule": "above 0", "baseline": 0.5}
    return {"id": id, "notebook": notebook, **numbers, "holds": holds, "beyond_baseline": "yes", **KINDS}


def test_a_claim_is_unstable_when_two_answers_contradict():
    rows = [row("00.a", 2), row("00.b", 2), row("00.c", 2), row("00.d", 2)]
    against = {"holds": "does not hold"}
    others = {
        10: [
            row("00.a", 3),
            row("00.b", 0.5, holds="borderline"),
            row("00.c", -2, **against),
            row("00.d", -3, **against),
        ],
        20: [row("00.a", 4), row("00.b", 2), row("00.c", 0, holds="imprecise")],
    }
    found = {line["id"]: line for line in compared(rows, others)}
    assert [found[id]["stable"] for id in ("00.a", "00.b", "00.c", "00.d")] == [True, True, False, False]
    assert found["00.b"]["seeds"]["10"] == {
        "ours": 0.5, "interval": [-0.5, 1.5], "baseline": 0.5, "holds": "borderline", "beyond_baseline": "yes",
    }  # fmt: skip
    said = [numbers["holds"] for numbers in found["00.c"]["seeds"].values()]
    assert said == ["holds", "does not hold", "imprecise"]
    assert list(found["00.d"]["seeds"]) == ["0", "10"], "a run that did not make a claim says nothing of it"


def test_the_published_table_is_of_the_published_claims():
    table = json.loads(module.TABLE.read_text(encoding="utf-8"))
    rows = {row["id"]: row for row in json.loads((RESULTS / "claims.json").read_text(encoding="utf-8"))}
    asked = {id for id, row in rows.items() if row["notebook"][:2] in module.ONLY}
    page = (PAGES / "claims.md").read_text(encoding="utf-8")
    newer = set(re.findall(r"`(\d\d\.[\w-]+)`", page.partition("newer than that run:")[2].partition("{{")[0]))
    assert {line["id"] for line in table} == asked - newer, "run `make stability`, or name what is newer on the page"
    assert newer <= asked, "these claims are no more"
    for line in table:
        assert list(line["seeds"]) == ["0", *map(str, SEEDS)], line["id"]
        assert line["rule"] == rows[line["id"]]["rule"]
        assert line["seeds"]["0"]["interval"] == pytest.approx(rows[line["id"]]["interval"], rel=1e-3, abs=1e-5)


def test_what_has_been_run_as_it_is_now_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran = []

    def run(*, seed, only):
        ran.append((seed, only))
        folder = Path(os.environ["CONVERGENT_BUILD"])
        assert folder == tmp_path / "build" / "stability" / f"seed-{seed}"
        (folder / "results" / "rows").mkdir(parents=True, exist_ok=True)
        for name in only:
            rows = [row("00.a", -seed, holds="does not hold")] if name == "00_x" else []
            (folder / "results" / "rows" / f"{name}.json").write_text(json.dumps(rows))
        return 0

    def write(name, source):
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")

    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    for name, value in {
        "run": run,
        "NOTEBOOKS": tmp_path,
        "RESULTS": tmp_path,
        "TABLE": tmp_path / "table.json",
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "notebook_names", lambda only: ["00_x", "01_y"])
    (tmp_path / "claims.json").write_text(json.dumps([row("00.a", 3), row("07.z", 3, notebook="07_z")]))
    write("00_x", "1")
    write("01_y", "1")
    assert stability((10, 20)) == 0
    assert ran == [(10, ["00_x", "01_y"]), (20, ["00_x", "01_y"])]
    write("01_y", "2")
    assert stability((10, 20)) == 0
    assert ran[2:] == [(10, ["01_y"]), (20, ["01_y"])]
    assert os.environ["CONVERGENT_BUILD"] == str(tmp_path / "build")
    (tmp_path / "package" / "kernels").mkdir(parents=True)
    (tmp_path / "package" / "kernels" / "new.py").write_text("1")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    assert stability((10, 20)) == 0
    assert len(ran) == 6, "other kernels: all notebooks again"
    assert [line["id"] for line in json.loads((tmp_path / "table.json").read_text())] == ["00.a"]
    assert "flipping: 00.a" in capsys.readouterr().out
    monkeypatch.setattr(module, "run", lambda **_: 1)
    write("00_x", "3")
    (tmp_path / "table.json").unlink()
    assert main(["stability"]) == 1
    assert not (tmp_path / "table.json").exists()
    (tmp_path / "claims.json").unlink()
    monkeypatch.setattr(module, "run", run)
    capsys.readouterr()
    assert main(["stability"]) == 2
    assert "claims.json" in capsys.readouterr().err, "one line, no traceback"
