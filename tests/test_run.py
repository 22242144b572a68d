import json
import os
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
import torch

from convergent_utils import cli
from convergent_utils.edition import places, publish, run
from convergent_utils.making import things
from convergent_utils.making.store import Store
from convergent_utils.paper.prepare import prepare


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "smok"], "profile: expected one of smoke, paper, full, got 'smok'; did you mean 'smoke'?"),
        (["--dataset", "fashion-mnst", "--profile", "smoke"], "did you mean 'fashion-mnist'?"),
        (["--dataset", "npz:nowhere.npz", "--profile", "smoke"], "there is no file"),
        (["--only", "77"], "only: no notebook starts with '77'"),
        (["--parameter", "sed=3"], "parameter: expected one of"),
        (["--parameter", "shown"], "argument --parameter: expected NAME=VALUE, got 'shown'"),
        (["--parameter", "=conv3"], "argument --parameter: expected NAME=VALUE, got '=conv3'"),
        (["--parameter"], "argument --parameter: expected at least one argument"),
        (["--parameter", "shown=conv1", "--parameter", "shown=conv3"], "parameter: 'shown' is given twice"),
        (["--parameter", "seed=3"], "parameter: 'seed' is given by itself, as --seed"),
        (["--parameter", "shown=NaN"], "parameters: expected numbers, texts"),
        (["--only"], "argument --only: expected at least one argument"),
        (["--only", ""], "only: no notebook starts with ''"),
        (["--only", "02", "--only", "77"], "only: no notebook starts with '77'"),
        (["--seed", "one\n two"], "argument --seed: invalid int value: 'one\\n two'"),
        (["--seed", ""], "argument --seed: invalid int value: ''"),
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--seed=-1"], "seed: expected a whole number from 0 to 2^32 - 1, got -1"),
        (["--seed", "9" * 5000], "argument --seed: invalid int value: '999"),
        (["--profile", ""], "profile: expected one of smoke, paper, full, got ''"),
        (["--sed", "3"], "unrecognized arguments: --sed 3"),
    ],
)
def test_mistakes_are_one_clear_line_at_once(tmp_path, monkeypatch, capsys, arguments, message):
    for name in ("CONVERGENT_BUILD", "CONVERGENT_STORE", "CONVERGENT_RUN"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert cli.main(["paper", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list((tmp_path / "CONVERGENT_STORE").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"profile": 3}, "profile"),
        ({"profile": ["smoke"]}, "profile"),
        ({"dataset": None}, "dataset"),
        ({"dataset": b"fashion-mnist"}, "dataset"),
        ({"seed": "0"}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"only": "02"}, "only"),
        ({"only": []}, "only"),
        ({"only": [2]}, "only"),
        ({"only": {"02"}}, "only"),
        ({"only": 2}, "only"),
        ({"only": ["x" * 5000]}, "only"),
        ({"parameters": "shown=conv3"}, "parameters"),
        ({"parameters": {"shown": object()}}, "parameters"),
        ({"parameters": {"shown": float("inf")}}, "parameters"),
        ({"parameters": {"shown": {1, 2}}}, "parameters"),
        ({"parameters": {3: "conv3"}}, "parameter"),
        ({"parameters": {"profile": "full"}}, "parameter"),
    ],
)
def test_a_run_refuses_what_is_of_the_wrong_type(tmp_path, monkeypatch, arguments, named):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    with pytest.raises(ValueError, match=f"^{named}: ") as refused:
        run.run(**{"profile": "smoke", **arguments})
    assert len(str(refused.value)) <= 300
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("notebooks", "arguments", "named"),
    [
        ((), {"store": "build/store"}, "store"),
        ((), {"store": 3}, "store"),
        ((["00_networks"],), {}, "notebooks"),
        ((0,), {}, "notebooks"),
        ((), {"seed": "0"}, "seed"),
        ((), {"seed": -1}, "seed"),
        ((), {"profile": None}, "profile"),
        ((), {"dataset": 7}, "dataset"),
    ],
)
def test_preparing_refuses_what_is_of_the_wrong_type(notebooks, arguments, named):
    with pytest.raises(ValueError, match=f"^{named}: ") as refused:
        prepare(*notebooks, **arguments)
    assert len(str(refused.value)) <= 300


@pytest.mark.parametrize("ends", ["well", "ill", "interrupted"])
def test_a_run_leaves_the_environment_as_it_was(tmp_path, monkeypatch, ends):
    during = {}

    def seen(*_, **__):
        during.update({name: os.environ.get(name) for name in ("CONVERGENT_BUILD", "CONVERGENT_RUN")})
        if ends != "well":
            raise ValueError("name: ill") if ends == "ill" else KeyboardInterrupt

    monkeypatch.delenv("CONVERGENT_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVERGENT_BUILD", "build")
    for name, made in {"prepare": seen, "compile_kernels": lambda: None, "_execute_all": lambda *_: []}.items():
        monkeypatch.setattr(run, name, made)
    before = dict(os.environ)
    assert cli.main(["paper", "--profile", "smoke"]) == {"well": 0, "ill": 2, "interrupted": 130}[ends]
    assert dict(os.environ) == before
    assert during == {"CONVERGENT_BUILD": str(tmp_path / "build"), "CONVERGENT_RUN": "1"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_so_in_one_line(monkeypatch, capsys, number, status):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(**_):
        signal.raise_signal(number)
        pytest.fail("it went on")

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main(["paper"]) == status
    said = capsys.readouterr().err
    assert said == "convergent: interrupted; what was finished is kept, start again to go on\n"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_without_the_packages_of_the_paper_a_command_is_one_line(tmp_path):
    """In a process where they cannot be imported, whatever else is installed."""
    lacking = ("papermill", "nbformat", "nbclient", "psutil", "matplotlib", "IPython", "torchvision", "tqdm", "seaborn")
    commands = [["paper"], ["stability"], ["publish"], ["check", "00_networks.ipynb"]]
    script = f"""
import sys
sys.modules.update(dict.fromkeys({lacking!r}))
from convergent_utils.cli import main
sys.exit(str([main(command) for command in {commands!r}]))"""
    environment = {**os.environ, "CONVERGENT_BUILD": str(tmp_path), "PYTHONPATH": str(places.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    *said, statuses = done.stderr.strip().splitlines()
    assert statuses == "[2, 2, 2, 2]", done.stderr
    assert len(said) == len(commands)
    for line in said:
        assert line.startswith("convergent: ")
        assert "not installed; `pip install" in line


def test_what_a_killed_run_did_not_finish_is_swept_and_a_living_run_is_left_alone(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, living = gone.stdout.strip(), os.getppid()
    folders = [tmp_path / name for name in ("notebooks", "results", "results/rows")]
    for folder in folders:
        folder.mkdir(parents=True)
        for pid in (dead, living):
            for name in (f".02_x.{pid}.ipynb", f".02_x.ipynb.{pid}", f".02_x.json.{pid}"):
                (folder / name).write_text("half")
        (folder / ".keep").write_text("another's")
    run._clear(tmp_path, {"seed": 3}, ["02_x"])
    for folder in folders:
        left = {path.name for path in folder.glob(".*")}
        assert left == {".keep", f".02_x.{living}.ipynb", f".02_x.ipynb.{living}", f".02_x.json.{living}"}


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_a_damaged_record_of_the_last_run_is_none(tmp_path, text):
    assert places.last_settings(tmp_path) == {}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text(text)
    assert places.last_settings(tmp_path) == {}


STAND_IN = """#!/bin/sh
for given in "$@"; do printf '%s\\0' "$given" >>"$RECORD"; done
printf '\\0' >>"$RECORD"
"""


@pytest.fixture
def made(tmp_path):
    """Runs make where folder and Python have odd names; returns what Python was asked, call by call."""
    folder = tmp_path / "a b [c] o'd; $e"
    python = folder / "bin (1)" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(places.ROOT / name, folder)

    def make(target, *variables, **environment):
        record, before = tmp_path / "record", set(folder.rglob("*"))
        record.write_bytes(b"")
        environment = {**os.environ, **environment, "RECORD": str(record)}
        command = ["make", target, f"PYTHON={python}", *variables]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {path.suffix for path in set(folder.rglob("*")) - before} <= {"", ".stamp"}
        assert {path.name for path in folder.iterdir()} == {
            "Makefile", "pyproject.toml", "constraints.txt", "build", "bin (1)"
        }  # fmt: skip
        return [call.split("\0") for call in record.read_text().split("\0\0")[:-1]]

    return make


ODD = ["0; touch x", "$(shell touch x)", "$$(touch x)", "`touch x`", "x | touch x", "folder:A b (2)", "npz:o'brien.npz",
       'a"b', "a\\b", "$HOME", "${HOME}", "*", "--seed", "#x", "a%b", "x && touch x", "$@ $< $(value x)"]  # fmt: skip


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_make_takes_what_it_is_given_as_data(made, by):
    for name, option in {"DATASET": "--dataset", "SEED": "--seed", "PROFILE": "--profile"}.items():
        for value in ODD if name == "DATASET" else ODD[:4]:
            asked = made("paper", f"{name}={value}") if by == "argument" else made("paper", **{name: value})
            assert asked[-1][2:] == ["paper", f"{option}={value}"]


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_splits_lists_at_spaces_alone(made):
    asked = made("paper", "ONLY=02 | touch x", "PARAMETERS=shown=`touch a=[1,*] --seed=3 $(shell touch x)")
    given = ["02", "|", "touch", "x"], ["shown=`touch", "a=[1,*]", "--seed=3", "$(shell", "touch", "x)"]
    assert asked[0][:3] == ["-m", "pip", "install"]
    assert asked[1:] == [
        ["-m", "convergent_utils.cli", "paper", *map("--only={}".format, given[0]),
         *map("--parameter={}".format, given[1])]
    ]  # fmt: skip
    for nothing in ((), ("ONLY=", "PARAMETERS=", "SEED=", "DATASET=", "PROFILE="), ("ONLY= ",)):
        assert made("paper", *nothing) == [["-m", "convergent_utils.cli", "paper"]], "all, as by default"
    assert made("course")[-1] == ["-m", "convergent_utils.cli", "course"]
    assert made("lab")[-1][-1].endswith("a b [c] o'd; $e/notebooks")


@pytest.mark.parametrize("held", ["here", "elsewhere", "nowhere"])
def test_make_says_so_where_it_points_an_environment_at_another_folder(tmp_path, held):
    folder, environment = tmp_path / "project", tmp_path / "environment"
    packages = environment / "lib" / "python3.12" / "site-packages" / "convergent_learning-0.1.0.dist-info"
    for needed in (folder, packages, environment / "bin"):
        needed.mkdir(parents=True)
    (environment / "bin" / "python").write_text("#!/bin/sh\n")
    (environment / "bin" / "python").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(places.ROOT / name, folder)
    if held != "nowhere":
        url = (folder if held == "here" else tmp_path / "another").as_uri()
        (packages / "direct_url.json").write_text(json.dumps({"dir_info": {"editable": True}, "url": url}))
    command = ["make", "env", f"PYTHON={environment / 'bin' / 'python'}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("held convergent_utils of another folder" in done.stdout) == (held == "elsewhere")


@pytest.mark.parametrize("which", ["CONVERGENT_BUILD", "CONVERGENT_STORE"])
def test_an_unwritable_folder_is_one_clear_line_at_once(tmp_path, monkeypatch, capsys, which):
    (tmp_path / "file").write_text("")
    for name in ("CONVERGENT_BUILD", "CONVERGENT_STORE", "CONVERGENT_RUN"):
        monkeypatch.setenv(name, str(tmp_path / ("file" if name == which else name)))
    assert cli.main(["paper", "--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"convergent: {which}: cannot write in {tmp_path / 'file'}")
    assert len(said.strip().splitlines()) == 1


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_notebook_with_more_prose_than_was_run_is_not_published(tmp_path):
    """Prose may be mended in place; a new cell has no place in the run's copy."""
    (tmp_path / "notebooks").mkdir()
    path = notebook(tmp_path / "02_x.ipynb", "x = 1", "x = 2")
    shutil.copyfile(path, tmp_path / "notebooks" / path.name)
    book = nbformat.read(path, 4)
    book.cells.insert(1, nbformat.v4.new_markdown_cell("And now two."))
    nbformat.write(book, path)
    with pytest.raises(ValueError, match=r"^publish: 02_x.ipynb was edited after it was run; run `make paper` again"):
        publish._publish_notebook(tmp_path, path)


@pytest.mark.slow
def test_a_failing_notebook_tells_where_and_what(tmp_path):
    path = notebook(tmp_path / "03_broken.ipynb", "x = 1", "print('before')\nraise ValueError('two\\nlines')", "x = 2")
    (tmp_path / "out").mkdir()
    outcome = run.execute(path, tmp_path / "out", {})
    assert outcome.error == "cell 1 (In [2]): ValueError: two lines"
    assert outcome.executed.exists()
    assert "before" in outcome.executed.read_text()
    assert not (tmp_path / "out" / "03_broken.ipynb").exists(), "no half-run copy under the good name"
    notebook(path, "x = 1")
    outcome = run.execute(path, tmp_path / "out", {})
    assert not outcome.error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["03_broken.ipynb"]


@pytest.mark.slow
def test_a_failing_notebook_fails_the_run_and_is_named(tmp_path, monkeypatch, capsys):
    for module in (places, run):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(run, "prepare", lambda *names, **settings: None)
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("CONVERGENT_RUN", "1")
    book = notebook(
        tmp_path / "00_x.ipynb", 'dataset: str = "fashion-mnist"\nseed: int = 0\nprofile: str = "paper"', "1 / 0"
    )
    content = nbformat.read(book, 4)
    content.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(content, book)
    assert run.run(profile="smoke") == 1
    said = capsys.readouterr().err
    assert "00_x failed: cell 2 (In [3]): ZeroDivisionError: division by zero" in said
    assert str(tmp_path / "build" / "notebooks" / "00_x.failed.ipynb") in said


def test_publishing_wants_a_run_with_the_committed_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    with pytest.raises(ValueError, match="committed parameters"):
        publish.publish()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text(json.dumps({**places.DEFAULTS, "seed": 3}))
    with pytest.raises(ValueError, match="committed parameters"):
        publish.publish()


@pytest.mark.slow
def test_what_is_published_is_renamed_after_an_edit_that_changes_no_number(tmp_path, monkeypatch, capsys):
    """The code of all things is said to be another; the results are the same, and found by their new names."""
    preparing = sys.modules["convergent_utils.paper.prepare"]
    networks, experiments = (shutil.copytree(source, tmp_path / source.name) for source in (
        preparing.PUBLISHED, preparing.EXPERIMENTS_PUBLISHED))  # fmt: skip
    for module in (preparing, publish):
        monkeypatch.setattr(module, "EXPERIMENTS_PUBLISHED", experiments)
    monkeypatch.setattr(preparing, "PUBLISHED", networks)
    assert cli.main(["publish", "--same-numbers"]) == 0
    assert capsys.readouterr().out == "nothing to rename\n"
    before, files = (
        {path.name for path in experiments.iterdir()},
        {path: path.read_bytes() for path in networks.glob("*.safetensors")},
    )
    monkeypatch.setattr(things, "_code", lambda made: "edited")
    assert cli.main(["publish", "--same-numbers"]) == 0
    assert capsys.readouterr().out == f"{len(before) + 9} renamed\n"
    after = {path.name for path in experiments.iterdir()}
    assert len(after) == len(before)
    assert not after & before
    assert all(path.read_bytes() == content for path, content in files.items()), "a network that did not change stays"
    paper = preparing._prepared(Store(tmp_path / "store"), **places.DEFAULTS, published=True)
    assert paper.shelf.find(paper.thing("dft", "net1", "net2")) is not None
    assert paper.shelf.find(paper.setting.learned["net3"]) is not None


def test_a_run_on_other_images_is_kept_beside_the_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path))
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "published")
    (tmp_path / "results").mkdir()
    (tmp_path / "published").mkdir()
    (tmp_path / "results" / "claims.json").write_text("[]")
    for settings in (places.DEFAULTS, {**places.DEFAULTS, "dataset": "npz:mine.npz", "seed": 3}):
        (tmp_path / "results" / "run.json").write_text(json.dumps(settings))
        assert cli.main(["publish", "--beside", "mine"]) == 2
        assert "on other images, with nothing else changed" in capsys.readouterr().err
    (tmp_path / "results" / "run.json").write_text(json.dumps({**places.DEFAULTS, "dataset": "npz:mine.npz"}))
    assert cli.main(["publish", "--beside", "mine"]) == 0
    assert (tmp_path / "published" / "claims-mine.json").read_text() == "[]"
    for name in ("", "../mine", "a b", "a/b", "x" * 300):
        assert cli.main(["publish", "--beside", name]) == 2
        assert capsys.readouterr().err.startswith("convergent: beside: expected a short name")


# what is published, without any training


@pytest.fixture
def from_published(tmp_path, monkeypatch):
    """A run of the committed settings that makes and executes nothing, and what it would have made."""
    asked = {}
    monkeypatch.setenv("CONVERGENT_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(run, "compile_kernels", lambda: None)
    monkeypatch.setattr(run, "_execute_all", lambda jobs, folder: [])
    monkeypatch.setattr(run, "_gate", lambda *_: 0)

    def prepared(*names, **settings):
        asked.update(names=list(names), **{k: os.environ[k] for k in ("CONVERGENT_RUN", "CONVERGENT_STORE")})

    monkeypatch.setattr(run, "prepare", prepared)
    return asked


def test_from_what_is_published_notebooks_that_would_train_are_left_out_by_name(from_published, tmp_path, capfd):
    assert cli.main(["paper", "--from", "published"]) == 0
    assert [name[:2] for name in from_published["names"]] == [
        "00",
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
        "08",
        "10",
        "11",
        "12",
    ]
    said = capfd.readouterr().err
    for name, count in {"07_pwcca": 68, "09_architectures": 28}.items():
        assert f"{name} is left out: it would have to train {count} networks" in said
    assert from_published["CONVERGENT_RUN"] == "published"
    assert from_published["CONVERGENT_STORE"] == str(tmp_path / "store" / "published"), "what is made lies apart"
    assert cli.main(["publish"]) == 2, "it is not a run that could be published"
    assert "the last run was not `make paper` with the committed parameters" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "1"], "from: what is published is of dataset fashion-mnist, seed 0, profile paper"),
        (["--profile", "smoke"], "from: what is published is of"),
        (["--only", "07"], "from: all of these notebooks would have to train networks"),
    ],
)
def test_from_what_is_published_no_other_networks_can_be_had(from_published, capfd, arguments, said):
    assert cli.main(["paper", "--from", "published", *arguments]) == 2
    assert said in capfd.readouterr().err


def test_from_anything_else_is_refused(capfd):
    assert cli.main(["paper", "--from", "somewhere"]) == 2
    assert "--from" in capfd.readouterr().err


def test_whatever_trains_networks_counts_as_training(tmp_path, monkeypatch):
    """Where the results of notebook 06 are not at hand, its nine networks that train on count."""
    module = sys.modules["convergent_utils.paper.prepare"]
    monkeypatch.setattr(module, "EXPERIMENTS_PUBLISHED", tmp_path / "nothing")
    settings = {"dataset": "fashion-mnist", "seed": 0, "profile": "paper"}
    found = module.to_train(["04_sparse_mapping", "06_svcca"], Store(tmp_path / "store"), **settings)
    assert found == {"04_sparse_mapping": 0, "06_svcca": 9}


def test_networks_that_are_the_published_ones_to_the_last_bit_are_known(tmp_path):
    module = sys.modules["convergent_utils.paper.prepare"]
    paper = module._prepared(Store(tmp_path / "store"), **places.DEFAULTS, published=True)
    assert run.networks_as_published(paper)
    learned = paper.setting.learned["net3"]
    trained = paper.shelf(learned)
    with torch.no_grad():
        next(trained.network.parameters()).view(-1)[0] += 1e-6
    paper.store.keep(learned.kind, learned.configuration, trained)
    assert not run.networks_as_published(paper)


def test_a_notebook_of_networks_from_elsewhere_is_judged_as_on_another_machine(monkeypatch, capsys):
    """Its claims may come out undecided where the published networks are the same; a contradiction fails as before."""
    row = {"id": "02.a", "notebook": "02_m", "ours": 0.1, "interval": [0, 1], "rule": "above 0"}
    monkeypatch.setattr(run, "read_rows", lambda path: [{**row, "holds": "holds"}])
    monkeypatch.setattr(run, "networks_as_published", lambda prepared: True)
    for elsewhere, holds, failed in (
        ({}, "imprecise", 1), ({"02_m": "another"}, "imprecise", 0), ({"02_m": "another"}, "does not hold", 1),
    ):  # fmt: skip
        monkeypatch.setattr(run, "published_elsewhere", lambda elsewhere=elsewhere: elsewhere)
        assert run._gate([{**row, "holds": holds}], None, places.DEFAULTS, ["02_m"]) == failed
        assert "02.a" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "elsewhere", "written"), [(True, {}, 1), (False, {"11": "x"}, 1), (False, {}, 0)])
def test_a_whole_run_that_is_published_ends_what_was_elsewhere(changed, elsewhere, written, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "published_elsewhere", lambda: elsewhere)
    assert len(publish._publish_machine(changed)) == written
    assert not written or "elsewhere" not in json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert (tmp_path / "machine.json").exists() == bool(written)


def test_what_was_trained_elsewhere_is_written_beside_the_machine():
    assert set(run.published_elsewhere()) <= {path.stem for path in places.NOTEBOOKS.glob("*.ipynb")}
