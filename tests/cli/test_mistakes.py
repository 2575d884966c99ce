"""A user's mistakes: one message on stderr, an exit code, no traceback, nothing on stdout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from onegov_orm.cli._exits import Exit
from tests.cli.conftest import Project

GOOD = 'from onegov_orm import SessionManager\nmgr = SessionManager("{dsn}", Base)\n'


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["lsit"], Exit.USAGE, "No such command"),
        (["list", "--colour"], Exit.USAGE, "No such option"),
        (["create"], Exit.USAGE, "Missing argument"),
        (["migrate", "--workers", "0"], Exit.USAGE, "--workers"),
        (["list"], Exit.UNREACHABLE, "onegov-orm doctor"),
        (["list", "--dsn", "mysql://host/db"], Exit.USAGE, "PostgreSQL"),
        (["list", "--dsn", "nonsense"], Exit.USAGE, ""),
        (["list", "--config", "missing.toml"], Exit.NOT_FOUND, "missing.toml"),
        (["create", "Bern"], Exit.USAGE, "is not a valid schema name"),
        (["create", "public"], Exit.USAGE, "it is reserved"),
        (["create", "x", "--base", "towns"], Exit.USAGE, 'like "package.module:name"'),
        (["create", "x", "--base", "towns:Bse"], Exit.USAGE, "has nothing named Bse"),
        (["create", "x", "--base", "nowhere:Base"], Exit.USAGE, "there is no module nowhere"),
        (["create", "x", "--base", "towns:__name__"], Exit.USAGE, "not a declarative base"),
        (["list", "--manager", "towns:Base"], Exit.USAGE, "not a SessionManager"),
        (["list", "--manager", "towns:MODELS"], Exit.USAGE, "has nothing named"),
        (["restore", "missing.dump"], Exit.NOT_FOUND, "there is no file missing.dump"),
        (["migrate"], Exit.USAGE, "onegov-orm init"),
        (["downgrade", "x", "--to", "-1"], Exit.UNREACHABLE, ""),
    ],
)
def test_each_has_its_answer(
    bare_project: Project, arguments: list[str], code: Exit, expected: str
) -> None:
    ended = bare_project(*arguments)
    assert ended.code == code, ended.err
    assert expected in ended.err
    assert ended.err.strip()
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "geheim" not in ended.err


def test_without_any_configuration(bare_project: Project) -> None:
    bare_project.write("pyproject.toml", "")
    ended = bare_project("list")
    assert ended.code == Exit.USAGE
    assert "ONEGOV_ORM_DSN" in ended.err


def test_models_that_are_needed_are_asked_for(bare_project: Project) -> None:
    bare_project.configure(dsn=bare_project.dsn)
    assert "which models?" in bare_project("create", "towns-bern").err
    assert bare_project("list").code == Exit.UNREACHABLE


def test_two_databases_in_one_file(bare_project: Project) -> None:
    bare_project.configure(dsn=bare_project.dsn, manager="app:mgr")
    assert "both set" in bare_project("list").err


def test_a_module_that_fails_points_into_the_users_file(bare_project: Project) -> None:
    bare_project.write("broken.py", "def connect():\n    return 1 / 0\n\nmgr = connect()\n")
    ended = bare_project("list", "--manager", "broken:mgr")
    assert ended.code == Exit.USAGE
    assert "importing broken failed: ZeroDivisionError" in ended.err
    assert "broken.py" in ended.err
    assert "return 1 / 0" in ended.err
    assert "_loading.py" not in ended.err


def test_a_module_that_lacks_another_one(bare_project: Project) -> None:
    bare_project.write("lacking.py", "import not_there_at_all\n")
    ended = bare_project("list", "--manager", "lacking:mgr")
    assert "importing lacking failed" in ended.err
    assert "not_there_at_all" in ended.err


def test_a_factory_that_fails(bare_project: Project) -> None:
    bare_project.write("factory.py", "def make():\n    raise RuntimeError('no settings')\n")
    assert "no settings" in bare_project("list", "--manager", "factory:make").err


def test_all_is_shown_if_asked_for(bare_project: Project) -> None:
    ended = bare_project("list", "--traceback")
    assert "Traceback" in ended.err
    assert ended.code == Exit.UNREACHABLE


def test_errors_as_json(bare_project: Project) -> None:
    ended = bare_project("list", "--json")
    assert ended.data["error"]["exit_code"] == Exit.UNREACHABLE
    assert ended.data["error"]["message"]
    assert "geheim" not in ended.out


def test_the_module_may_print(project: Project) -> None:
    project.write("noisy.py", "print('hello')\nfrom towns import Base\n")
    project.write("app.py", f"from noisy import Base\n{GOOD.format(dsn=project.dsn)}")
    project.write("pyproject.toml", "")
    ended = project("list", "--json", "--manager", "app:mgr")
    assert ended.data == []
    assert "hello" in ended.err


@pytest.mark.parametrize("path", ["app:mgr", "app:make", "app:Settings.mgr"])
def test_a_manager_can_be_given(project: Project, path: str) -> None:
    more = "def make():\n    return mgr\n\nclass Settings:\n    mgr = mgr\n"
    project.write("app.py", f"from towns import Base\n{GOOD.format(dsn=project.dsn)}{more}")
    project.configure(manager=path)
    assert project("list", "--json").data == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_an_asynchronous_manager_can_be_given(project: Project, driver: str) -> None:
    dsn = project.dsn.replace("postgresql://", f"postgresql+{driver}://")
    text = f"from towns import Base\n{GOOD.format(dsn=dsn)}"
    text = text.replace("SessionManager", "AsyncSessionManager")
    text += (
        "mgr.required_extensions.clear()\n"
        "async def seed(schema, connection):\n"
        "    await connection.run_sync(lambda c: c.exec_driver_sql(\n"
        "        \"INSERT INTO residents (name) VALUES ('Ada')\"))\n"
        "mgr.on_schema_init.connect(seed)\n"
    )
    project.write("app.py", text)
    project.configure(manager="app:mgr")
    assert project("create", "towns-bern").code == 0
    assert project("list", "--names").out == "towns-bern\n"
    assert (
        project(
            "shell",
            "towns-bern",
            "-c",
            "print(session.query(__import__('towns').Resident).count())",
        ).out
        == "1\n"
    )


def test_a_wrong_password_and_an_unknown_database(project: Project, tcp_dsn: str) -> None:
    wrong = re.sub(r":[^:@]*@", ":falsch@", tcp_dsn)
    ended = project("list", "--dsn", wrong)
    assert ended.code == Exit.UNREACHABLE
    assert "falsch" not in ended.err
    unknown = re.sub(r"/test_\d+", "/nowhere", tcp_dsn)
    ended = project("list", "--dsn", unknown)
    assert ended.code == Exit.UNREACHABLE
    assert '"nowhere" does not exist' in ended.err


def test_a_role_without_rights(project: Project, tcp_dsn: str, newest: object) -> None:
    execute = newest.run  # type: ignore[attr-defined]
    execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    try:
        ended = project(
            "create", "x", "--dsn", re.sub(r"postgres:[^@]*@", "guest:guest@", tcp_dsn)
        )
    finally:
        execute("DROP ROLE guest")
    assert ended.code == Exit.DENIED
    assert "GRANT CREATE ON DATABASE" in ended.err


def test_similar_names_are_offered(project: Project) -> None:
    project("create", "towns-bern")
    assert "Did you mean towns-bern?" in project("drop", "towns-brn").err


def test_as_a_process_it_is_the_same(project: Project) -> None:
    ended = project.run("list", "nobody", "--json")
    assert ended.code == Exit.NOT_FOUND
    assert json.loads(ended.out)["error"]["kind"] == "SchemaNotFound"
    assert "\x1b" not in ended.out + ended.err


def test_a_reader_that_goes_away_is_no_error(project: Project, tmp_path: Path) -> None:
    for number in range(3):
        project("create", f"towns-{'x' * 50}{number}")
    with project.process("list", "--names") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
