"""Customers are listed, made, renamed, copied, suspended, dropped and brought back."""

from __future__ import annotations

import pytest

from onegov_orm.cli._exits import Exit
from tests.cli.conftest import Look, Project


def names(project: Project) -> list[str]:
    found: list[str] = project("list", "--names", "--json").data
    return found


@pytest.fixture
def towns(project: Project) -> Project:
    """A fleet of three."""
    assert project("create", "towns-basel", "towns-bern", "hills-uetli").code == 0
    return project


def test_an_empty_fleet_says_how_to_begin(project: Project) -> None:
    assert "onegov-orm create" in project("list").out
    assert project("list", "--json").data == []


def test_the_list_shows_each_customer(towns: Project) -> None:
    lines = towns("list").out.splitlines()
    assert lines[0].split()[:5] == ["schema", "state", "size", "tables", "rows"]
    assert [line.split()[0] for line in lines[1:]] == ["hills-uetli", "towns-basel", "towns-bern"]


def test_the_list_as_json(towns: Project) -> None:
    data = towns("list", "--json").data
    assert [each["schema"] for each in data] == ["hills-uetli", "towns-basel", "towns-bern"]
    assert {"state", "size_bytes", "tables", "rows_estimate", "created", "note"} <= set(data[0])


def test_flags_may_stand_before_the_command(towns: Project) -> None:
    assert len(towns("--json", "list").data) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["towns-*"], ["towns-basel", "towns-bern"]),
        (["-n", "hills"], ["hills-uetli"]),
        (["--exclude", "*-b*"], ["hills-uetli"]),
        (["towns-*", "-x", "towns-bern"], ["towns-basel"]),
        (["towns-bern", "towns-be*"], ["towns-bern"]),
        (["towns-b[ae]*", "hills-uetli"], ["hills-uetli", "towns-basel", "towns-bern"]),
    ],
)
def test_schemas_are_chosen(towns: Project, arguments: list[str], expected: list[str]) -> None:
    assert towns("list", "--names", *arguments).out.splitlines() == expected


def test_the_namespace_can_be_configured(towns: Project) -> None:
    towns.configure(dsn=towns.dsn, base="towns:Base", required_extensions=[], namespace="hills")
    assert names(towns) == ["hills-uetli"]


@pytest.mark.parametrize("pattern", ["towns-berne", "villages-*"])
def test_what_matches_nothing_is_an_error(towns: Project, pattern: str) -> None:
    ended = towns("list", pattern)
    assert ended.code == Exit.NOT_FOUND
    assert f'no schema "{pattern}"' in ended.err


def test_foreign_schemas_are_not_shown(towns: Project, look: Look) -> None:
    look('CREATE SCHEMA "towns-foreign"')
    assert "towns-foreign" not in names(towns)
    assert towns("adopt", "towns-foreign").code == 0
    assert "towns-foreign" in names(towns)


def test_long_names_are_never_cut(project: Project) -> None:
    name = "towns-" + "x" * 57
    project("create", name)
    assert name in project("list").out


def test_one_failure_does_not_keep_the_others_from_being_made(towns: Project) -> None:
    ended = towns("create", "towns-bern", "towns-chur", "--json")
    assert ended.code == Exit.FAILED
    assert ended.data["counts"] == {"done": 1, "skipped": 0, "failed": 1, "pending": 0}
    assert "towns-chur" in names(towns)


def test_failures_stand_first(towns: Project) -> None:
    lines = towns("create", "towns-aarau", "towns-bern").out.splitlines()
    assert lines[1].split()[:2] == ["towns-bern", "failed"]
    assert lines[2].split()[:2] == ["towns-aarau", "done"]
    assert lines[-1].startswith("1 done, 1 failed in ")


def test_rename(towns: Project) -> None:
    assert towns("rename", "towns-bern", "towns-berne").code == 0
    assert names(towns) == ["hills-uetli", "towns-basel", "towns-berne"]


def test_a_name_that_is_taken(towns: Project) -> None:
    assert towns("rename", "towns-bern", "towns-basel").code == Exit.EXISTS
    assert towns("create", "towns-bern").code == Exit.EXISTS


@pytest.mark.parametrize(("flags", "rows"), [([], 1), (["--structure"], 0)])
def test_clone(towns: Project, look: Look, flags: list[str], rows: int) -> None:
    look("""INSERT INTO "towns-bern".residents (name) VALUES ('Ada')""")
    ended = towns("clone", "towns-bern", "towns-trial", *flags, "--json")
    assert ended.data == {"schema": "towns-bern", "new": "towns-trial", "data": not flags}
    assert look('SELECT count(*) FROM "towns-trial".residents') == [(rows,)]


def test_suspend_resume_and_note(towns: Project) -> None:
    assert towns("suspend", "towns-bern", "--note", "[unpaid]").code == 0
    [bern] = towns("list", "towns-bern", "--json").data
    assert (bern["state"], bern["note"]) == ("suspended", "[unpaid]")
    assert "[unpaid]" in towns("list").out
    assert "suspended" in towns("shell", "towns-bern", "-c", "session.connection()").err
    assert towns("resume", "towns-*").code == 0
    assert towns("note", "towns-bern", "").code == 0
    [bern] = towns("list", "towns-bern", "--json").data
    assert (bern["state"], bern["note"]) == ("active", "")


def test_drop_and_undo(towns: Project) -> None:
    ended = towns("drop", "towns-bern")
    assert ended.code == 0
    assert "onegov-orm undo towns-bern" in ended.err
    assert names(towns) == ["hills-uetli", "towns-basel"]
    assert [each["name"] for each in towns("trash", "--json").data] == ["towns-bern"]
    assert "towns-bern" in towns("trash").out
    assert towns("undo", "towns-bern", "--to", "towns-berne").code == 0
    assert names(towns) == ["hills-uetli", "towns-basel", "towns-berne"]
    assert "empty" in towns("trash").out


def test_a_drop_of_several_by_a_pattern_asks(towns: Project) -> None:
    ended = towns("drop", "towns-*")
    assert ended.code == Exit.USAGE
    assert "towns-basel (" in ended.err
    assert "--yes" in ended.err
    assert len(names(towns)) == 3
    assert towns("drop", "towns-*", "--yes").code == 0
    assert names(towns) == ["hills-uetli"]


def test_what_is_destroyed_at_once_is_asked_for(towns: Project) -> None:
    ended = towns("drop", "towns-bern", "--purge")
    assert ended.code == Exit.USAGE
    assert "1 table, about 0 rows" in ended.err
    assert towns("drop", "towns-bern", "--purge", "--yes").code == 0
    assert towns("trash", "--json").data == []


def test_purge_asks_too(towns: Project) -> None:
    towns("drop", "towns-bern")
    assert towns("purge", "--all").code == Exit.USAGE
    assert towns("purge", "--older-than", "1h", "--yes").code == 0
    assert len(towns("trash", "--json").data) == 1
    ended = towns("purge", "towns-bern", "--yes", "--json")
    assert ended.data["counts"]["done"] == 1
    assert towns("trash", "--json").data == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["purge"], Exit.USAGE),
        (["purge", "--older-than", "soon"], Exit.USAGE),
        (["purge", "nobody", "--yes"], Exit.NOT_FOUND),
        (["undo", "nobody"], Exit.NOT_FOUND),
        (["drop", "nobody"], Exit.NOT_FOUND),
        (["rename", "nobody", "else"], Exit.NOT_FOUND),
        (["clone", "nobody", "else"], Exit.NOT_FOUND),
        (["suspend", "nobody"], Exit.NOT_FOUND),
        (["note", "nobody", "x"], Exit.NOT_FOUND),
        (["adopt", "nobody"], Exit.NOT_FOUND),
        (["shell", "nobody", "-c", "1"], Exit.NOT_FOUND),
    ],
)
def test_wrong_names(project: Project, arguments: list[str], code: Exit) -> None:
    ended = project(*arguments)
    assert ended.code == code
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_spares(project: Project) -> None:
    assert project("spares", "--fill", "2", "--json").data["made"] == 2
    assert "2 spares ready" in project("spares").out
    assert project("create", "towns-bern").code == 0
    assert "1 spare ready" in project("spares").out
