"""Upgrade tasks are loaded, checked and put in order; no server is asked."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import wraps
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm._upgrade_tasks import UpgradeTask, find_task, load_tasks, ordered
from onegov_orm.errors import ConfigurationError
from onegov_orm.upgrade import upgrade_task
from tests.fleet.upgrading import module_of, source_module, task


def keys(*modules: Any) -> list[str]:
    return [each.key for each in load_tasks(modules)]


def refused(*modules: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_tasks(modules)
    return str(caught.value)


def places_in(message: str) -> list[str]:
    return re.findall(r"[\w./]+\.py:\d+", message)


# -- order


def test_tasks_without_requirements_run_as_they_are_written() -> None:
    module = module_of("towns", task("B"), task("A"), task("C"))
    assert keys(module) == ["towns:B", "towns:A", "towns:C"]


def test_modules_follow_each_other_as_they_are_given() -> None:
    first, second = module_of("b", task("1")), module_of("a", task("2"))
    assert keys(first, second) == ["b:1", "a:2"]


def test_a_requirement_is_named_with_or_without_its_module() -> None:
    events = module_of("events", task("Late", requires="towns:Early"), task("Later", "Late"))
    towns = module_of("towns", task("Early"))
    assert keys(events, towns) == ["towns:Early", "events:Late", "events:Later"]


def test_a_task_may_require_several_others() -> None:
    module = module_of("towns", task("C", requires=["A", "towns:B"]), task("A"), task("B"))
    assert keys(module) == ["towns:A", "towns:B", "towns:C"]


def test_a_colon_may_be_part_of_a_name() -> None:
    module = module_of("towns", task("Late", requires="Fix: names"), task("Fix: names"))
    assert keys(module) == ["towns:Fix: names", "towns:Late"]


def test_raw_tasks_run_first() -> None:
    module = module_of("towns", task("A"), task("R2", "R1", raw=True), task("R1", raw=True))
    assert keys(module) == ["towns:R1", "towns:R2", "towns:A"]


@st.composite
def graphs(draw: st.DrawFn) -> list[UpgradeTask]:
    """Tasks in any order that require each other without a cycle."""
    number = draw(st.integers(0, 12))
    tasks: list[UpgradeTask] = []
    for position in range(number):
        raw = draw(st.booleans())
        before = [each.key for each in tasks if each.raw is raw]
        requires = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        tasks.append(UpgradeTask("m", str(position), print, requires=tuple(requires), raw=raw))
    return draw(st.permutations(tasks))


@given(graphs())
def test_each_task_comes_after_what_it_requires_and_raw_ones_first(
    tasks: list[UpgradeTask],
) -> None:
    result = ordered(tasks)
    assert sorted(each.key for each in result) == sorted(each.key for each in tasks)
    places = {each.key: place for place, each in enumerate(result)}
    assert all(places[key] < places[each.key] for each in result for key in each.requires)
    assert [each.raw for each in result] == sorted((each.raw for each in tasks), reverse=True)


@given(graphs())
def test_the_order_is_as_near_to_the_given_one_as_can_be(tasks: list[UpgradeTask]) -> None:
    result = ordered(tasks)
    assert ordered(result) == result
    given_places = {each.key: place for place, each in enumerate(tasks)}
    for earlier, later in pairwise(result):
        is_turned = given_places[earlier.key] > given_places[later.key]
        # The later one was not ready yet, or raw ones went first.
        assert not is_turned or earlier.raw is not later.raw or earlier.key in later.requires


# -- what contradicts itself


def test_a_cycle_is_shown_with_all_places() -> None:
    module = module_of("m", task("A", "C"), task("B", "A"), task("C", "B"), task("D"))
    message = refused(module)
    assert all(f"m:{name} " in message for name in "ABC")
    assert "m:D" not in message
    assert len(places_in(message)) == 4
    # A requires C, C requires B, B requires A.
    shown = [line.split()[0].removeprefix("m:") for line in message.splitlines()[1:]]
    assert {"A": "C", "C": "B", "B": "A"}[shown[0]] == shown[1]


def test_a_task_that_requires_itself_is_a_cycle() -> None:
    assert "require each other" in refused(module_of("m", task("A", "A")))


def test_an_unknown_requirement_is_named_with_its_place_and_what_may_be_meant() -> None:
    module = module_of("m", task("Add column"), task("B", requires="Add colunm"))
    message = refused(module)
    assert '"m:B"' in message
    assert '"Add colunm"' in message
    assert "did you mean m:Add column?" in message
    assert places_in(message)


def test_two_tasks_of_one_name_are_refused_with_both_places() -> None:
    module = source_module(
        "m",
        '@upgrade_task("A")\ndef one(context): ...\n\n@upgrade_task("A")\ndef two(context): ...\n',
    )
    assert places_in(refused(module)) == ["m.py:2", "m.py:5"]


def test_the_same_name_in_two_modules_is_fine() -> None:
    assert keys(module_of("a", task("A")), module_of("b", task("A"))) == ["a:A", "b:A"]


@pytest.mark.parametrize("raw", [True, False])
def test_raw_and_plain_tasks_cannot_require_each_other(raw: bool) -> None:
    message = refused(module_of("m", task("A", raw=raw), task("B", "A", raw=not raw)))
    assert "raw upgrade tasks run before all others" in message
    assert len(places_in(message)) == 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): ...", "(context)"),
        ("def f(a, b): ...", "(context)"),
        ("def f(*, context): ...", "(context)"),
        ("async def f(context): ...", "asynchronous"),
        ("async def f(context): yield", "asynchronous"),
    ],
)
def test_a_function_has_to_take_what_it_gets(source: str, expected: str) -> None:
    message = refused(source_module("m", f'@upgrade_task("A")\n{source}\n'))
    assert expected in message
    assert places_in(message) == ["m.py:2"]


def test_a_raw_function_takes_connection_and_schemas() -> None:
    source = '@upgrade_task("A", raw=True)\ndef f(context): ...\n'
    assert "(connection, schemas)" in refused(source_module("m", source))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", None, 3, print])
def test_a_task_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes the name of the task"):
        upgrade_task(name)


def test_a_function_that_another_one_replaces_is_refused_with_both_places() -> None:
    source = '@upgrade_task("A")\ndef f(context): ...\n\n@upgrade_task("B")\ndef f(context): ...\n'
    message = refused(source_module("m", source))
    assert "would never run" in message
    assert places_in(message) == ["m.py:2", "m.py:5"]


def test_a_function_that_something_else_replaces_is_refused() -> None:
    source = '@upgrade_task("A")\ndef f(context): ...\nf = 3\n'
    assert "replaced later on" in refused(source_module("m", source))


def test_a_decorated_task_is_found() -> None:
    def twice(function: Any) -> Any:
        @wraps(function)
        def wrapper(context: Any) -> None:
            function(context)
            function(context)

        return wrapper

    calls: list[Any] = []
    (found,) = load_tasks([module_of("m", twice(task("A", does=calls.append)))])
    found.function("context")
    assert calls == ["context", "context"]


# -- modules


def test_a_task_stays_a_function() -> None:
    @upgrade_task("A")
    def double(context: Any) -> Any:
        return context * 2

    assert double(2) == 4


def test_a_task_that_is_imported_belongs_to_where_it_is_defined() -> None:
    home = source_module("home", '@upgrade_task("A")\ndef f(context): ...\n')
    guest = ModuleType("guest")
    guest.f = home.f  # type: ignore[attr-defined]
    assert keys(guest) == ["guest:A"]
    assert keys(home, guest) == keys(guest, home) == ["home:A"]


def test_a_task_that_two_modules_import_is_refused() -> None:
    function = task("A")
    message = refused(module_of("a", function), module_of("b", function))
    assert "is in a and in b" in message


def test_two_modules_of_one_name_are_refused() -> None:
    assert "are called m" in refused(module_of("m"), module_of("m"))


def test_a_program_has_the_name_that_others_import_it_by(tmp_path: Path) -> None:
    source = "import sys\nfrom onegov_orm._upgrade_tasks import load_tasks, upgrade_task\n"
    source += '@upgrade_task("A")\ndef f(context): ...\n'
    source += "print(load_tasks([sys.modules[__name__]])[0].key)\n"
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").touch()
    for name in ("__main__", "other"):
        (tmp_path / "program" / f"{name}.py").write_text(source)

    def run(*arguments: str) -> str:
        path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
        ended = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stdout.strip() or ended.stderr

    assert run("-m", "program") == "program:A"
    assert run("-m", "program.other") == "program.other:A"
    assert "move them into a module" in run(str(tmp_path / "program" / "other.py"))


def test_a_module_counts_once() -> None:
    module = module_of("m", task("A"))
    assert keys(module, module) == ["m:A"]


@pytest.mark.parametrize("modules", ["tests.models", ModuleType("m")])
def test_a_single_module_is_no_list(modules: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a list of modules"):
        load_tasks(modules)


@pytest.mark.parametrize("name", ["no.such.module", "", ".relative", 3])
def test_a_module_that_cannot_be_imported_is_named(name: Any) -> None:
    assert repr(name) in refused(name)


def test_modules_are_imported_by_name_and_may_be_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "reloaded_tasks.py"
    head = "from onegov_orm.upgrade import upgrade_task\n"
    path.write_text(f'{head}@upgrade_task("A")\ndef f(context): ...\n')
    assert keys("reloaded_tasks") == ["reloaded_tasks:A"]
    path.write_text(f'{head}\n\n@upgrade_task("Another")\ndef f(context): ...\n')
    importlib.reload(sys.modules["reloaded_tasks"])
    assert keys("reloaded_tasks") == ["reloaded_tasks:Another"]


def test_without_modules_the_entry_points_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("second_tasks", "first_tasks"):
        source = "from onegov_orm.upgrade import upgrade_task\n"
        source += '@upgrade_task("A")\ndef f(context): ...\n'
        (tmp_path / f"{name}.py").write_text(source)
    info = tmp_path / "some_app-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-app\nVersion: 1.0\n")
    points = "[onegov_upgrades]\nz = second_tasks\na = first_tasks\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert [each.key for each in load_tasks()] == ["first_tasks:A", "second_tasks:A"]


def test_objects_that_do_not_like_questions_are_not_asked() -> None:
    class Proxy:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise RuntimeError("no request")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no request")

    module = module_of("m", task("A"))
    module.request = Proxy()  # type: ignore[attr-defined]
    assert keys(module) == ["m:A"]


# -- finding one


def test_a_task_is_found_by_key_and_by_name() -> None:
    tasks = load_tasks([module_of("a", task("A"), task("B")), module_of("b", task("A"))])
    assert find_task(tasks, "b:A").key == "b:A"
    assert find_task(tasks, "B").key == "a:B"
    with pytest.raises(ConfigurationError, match="a:A, b:A"):
        find_task(tasks, "A")
    with pytest.raises(ConfigurationError, match="did you mean"):
        find_task(tasks, "a:AA")
