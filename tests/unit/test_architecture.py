"""The rules of the house, read from the source: layers, sizes, docstrings, no SQL astray."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import onegov_orm
from onegov_orm import errors

PACKAGE = Path(onegov_orm.__file__).parent

#: Imports point down, or sideways within a layer; never up.
LAYERS = (
    # plain values: no I/O, no listeners
    {"_orm_error", "_model_errors", "errors", "typing", "names", "marks", "context", "changes",
     "signals", "_sql", "_prelude",
     "_statements", "_lexer", "_fork", "_tasks", "_places", "_differences", "_queues",
     "_standing", "_version", "_serializers"},
    # what models are made of: it knows of no manager
    {"_model_manager", "_flush_hooks", "base", "types.*", "mixins.*", "abstract.*",
     "translation", "observer", "aggregates", "_derived.*", "sql", "_selecting.*", "func",
     "debug", "_analyzing.*", "utils", "_query_chain", "_url_names"},
    # listeners of SQLAlchemy's, and what the drivers' connections know
    {"_connection", "_two_phase", "_cursors_psycopg2", "_driver_psycopg2", "_driver_psycopg",
     "_psycopg", "_driver_psycopg_async", "_driver_asyncpg", "_plans", "_readonly",
     "_session_async", "_pool", "_search_path", "_changes", "_bulk", "_identity", "_session",
     "_units", "_joining", "_attempts", "transactions"},
    # decisions that the managers share
    {"_ddl", "_marking", "_extensions", "provisioning", "_stamp", "_upgrade_*", "_engine",
     "_connecting", "replicas", "_operations", "_manager_context", "_manager", "_scoped"},
    # the managers
    {"session_manager", "session_manager_async"},
    # what is built on managers
    {"__init__", "fleet.*", "cache.*", "upgrade"},
    # the command line, which calls what is documented
    {"cli.*", "__main__"},
)  # fmt: skip

#: Stands beside the layers: no module of these imports it, and it needs none of them.
BESIDE = re.compile(r"embedded|_embedded_\w+")

#: The modules beside that others may use: the demo of the command line has a server of its own.
USES_SERVER = re.compile(r"cli\._?demo\w*")

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NOTE)\b")
SQL = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|DROP|ALTER|GRANT|SET|RESET|DISCARD|BEGIN"
    r"|COMMIT|ROLLBACK|SAVEPOINT|PREPARE|DECLARE|FETCH|MOVE|CLOSE|LISTEN|UNLISTEN|COPY|TRUNCATE)"
    r"(\s+[A-Z\"%{*]|;|\s*$)"
)

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.parts
}
LAYERED = {name: path for name, path in MODULES.items() if not BESIDE.fullmatch(name)}

each_module = pytest.mark.parametrize("name", MODULES)
each_layered_module = pytest.mark.parametrize("name", LAYERED)


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def imports_of(name: str, *, at_run_time: bool = False) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {target for node in statements(tree_of(name), at_run_time) for target in targets(node)}


def statements(node: ast.AST, at_run_time: bool) -> Iterator[ast.AST]:
    """Yield all nodes; at run time without those for the type checker and in functions."""
    for child in ast.iter_child_nodes(node):
        if at_run_time:
            if isinstance(child, ast.FunctionDef):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
        yield child
        yield from statements(child, at_run_time)


def targets(node: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that one statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name.startswith("onegov_orm."):
            yield from module_of(name.removeprefix("onegov_orm."))


def module_of(name: str) -> list[str]:
    """Return the module that a name is, or is in; a name of the package's itself is in none."""
    while name:
        for module in (name, f"{name}.__init__"):
            if module in MODULES:
                return [module]
        name = name.rpartition(".")[0]
    return []


def fnmatching(name: str, patterns: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def layer_of(name: str) -> int:
    """Return the number of the layer; packages of the upper layers are named as a whole."""
    return next(number for number, layer in enumerate(LAYERS) if fnmatching(name, layer))


def functions_of(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def docstrings_of(name: str) -> set[ast.AST]:
    """Return the nodes of all texts that stand for themselves."""
    return {
        node.value
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, without its docstring."""
    assert function.end_lineno is not None
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_each_module_has_its_layer() -> None:
    patterns = set().union(*LAYERS)
    assert not [name for name in LAYERED if not fnmatching(name, patterns)]
    assert not [each for each in patterns if not any(fnmatchcase(name, each) for name in LAYERED)]


@each_layered_module
def test_imports_point_down(name: str) -> None:
    layered = imports_of(name) & LAYERED.keys()
    above = {other for other in layered if layer_of(other) > layer_of(name)}
    assert not above


@each_module
def test_the_layers_and_the_embedded_server_do_not_know_each_other(name: str) -> None:
    foreign = {
        other
        for other in imports_of(name)
        if bool(BESIDE.fullmatch(other)) != bool(BESIDE.fullmatch(name)) and other != "errors"
    }
    assert not foreign or USES_SERVER.fullmatch(name)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: imports_of(name, at_run_time=True) for name in MODULES}
    assert list(TopologicalSorter(graph).static_order())


@each_module
def test_a_module_begins_with_a_docstring(name: str) -> None:
    docstring = ast.get_docstring(tree_of(name))
    assert docstring
    assert docstring.partition("\n")[0].endswith((".", ":"))


@each_module
def test_a_module_is_short(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MAX_MODULE_LINES


@each_module
def test_functions_are_short(name: str) -> None:
    long = {each.name: length_of(each) for each in functions_of(name)}
    assert not {function for function, lines in long.items() if lines > MAX_FUNCTION_LINES}


@each_module
def test_nothing_is_left_for_later(name: str) -> None:
    assert not UNFINISHED.findall(MODULES[name].read_text())


#: Where SQL is written: one module for the core, and one for each part of a package.
SQL_MODULES = re.compile(r"(\w+\.)?_sql(_\w+)?")


@pytest.mark.parametrize("name", [each for each in LAYERED if not SQL_MODULES.fullmatch(each)])
def test_sql_is_written_in_one_module(name: str) -> None:
    docstrings = docstrings_of(name)
    found = [
        node.value
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in docstrings
        and SQL.match(node.value)
    ]
    assert not found


def test_the_package_exports_what_it_imports() -> None:
    exported = [
        alias.asname or alias.name
        for node in ast.walk(tree_of("__init__"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onegov_orm.")
        for alias in node.names
    ]
    assert onegov_orm.__all__ == sorted(set(exported))


def error_classes() -> set[str]:
    """Return the names of all errors, in whichever module they are written."""
    return {
        node.name
        for module in ("_orm_error", "_model_errors", "errors")
        for node in tree_of(module).body
        if isinstance(node, ast.ClassDef)
    }


def test_every_error_is_exported() -> None:
    assert error_classes() <= set(onegov_orm.__all__)
    assert sorted(error_classes()) == errors.__all__


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    drawing = ast.get_docstring(tree_of("errors")) or ""
    for name in error_classes():
        assert re.search(rf"\b{name}\b", drawing)


def test_importing_the_package_loads_nothing_that_is_not_needed() -> None:
    # psycopg is not in this list: zope.sqlalchemy imports it wherever it is installed.
    heavy = ("_driver_psycopg", "_driver_psycopg2", "embedded")
    names = ["alembic", "asyncpg", "rich", "sqlalchemy_utils", "typer"]
    names += [f"onegov_orm.{name}" for name in heavy]
    code = f"import sys, onegov_orm; print([name for name in {names} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
