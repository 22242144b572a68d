"""The house: rooms one above the other, and no circle between files."""

import ast
import graphlib
from pathlib import Path

import convergent_utils as cu

PACKAGE = Path(cu.__file__).parent
# each may import from those before it
ROOMS = ("kernels", "making", "drawing", "nets", "compare", "paper", "edition", "cli")


def files():
    """Each file by its name within the package, as "making.store"; that of a folder by the folder's."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__").removesuffix("__init__"): path for name, path in paths.items()}


def imports(name, path, known):
    """The files that a file imports from, relatively, wherever in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                if whole == "__version__":  # of the package, which knows all other files
                    continue
                yield whole if whole in known else ".".join(base)


def graph():
    known = files()
    return {name: set(imports(name, path, known)) for name, path in known.items() if name}


def test_imports_run_one_way():
    for name, others in graph().items():
        room = ROOMS.index(name.split(".")[0])
        above = {other for other in others if ROOMS.index(other.split(".")[0]) > room}
        assert not above, f"{name} imports {above}, which stand above it"


def test_widgets_are_imported_by_notebooks_alone():
    assert not [name for name, others in graph().items() if "drawing.widgets" in others], "ipywidgets may be absent"


def test_no_circle_between_files():
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from error


def test_no_file_does_anything_when_it_is_imported_but_define():
    """Else the code that a thing reaches could not be told; see `making.code`."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for name, path in files().items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement in body[1:] if ast.get_docstring(ast.Module(body, [])) is not None else body:
            within = statement.body if isinstance(statement, ast.If) and not statement.orelse else [statement]
            is_main = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
            assert is_main or all(isinstance(one, kinds) for one in within), f"{name}: {ast.unparse(statement)}"
            assert not any(isinstance(one, ast.ImportFrom) and one.names[0].name == "*" for one in within), name


def test_the_rooms_are_those_of_the_house():
    assert {name.split(".")[0] for name in graph()} == set(ROOMS)
