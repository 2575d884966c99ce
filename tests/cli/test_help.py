"""What the help says, and that it is there at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from onegov_orm.cli._exits import Exit
from onegov_orm.cli._main import program
from tests.cli.conftest import ROOT, Project

GROUP = program()
COMMANDS = sorted(GROUP.commands)

EXPECTED = {
    "adopt", "check", "clone", "create", "demo", "doctor", "downgrade", "drop", "dump", "history",
    "init", "list", "migrate", "note", "purge", "rename", "restore", "resume", "revision", "shell",
    "spares", "stamp", "status", "suspend", "trash", "undo", "upgrade",
}  # fmt: skip


def words(text: str) -> str:
    """Return a text without frames and line breaks."""
    return re.sub(r"[\s│╭╰─╮╯]+", " ", text)


def test_all_commands_are_there() -> None:
    assert set(COMMANDS) == EXPECTED


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_teaches(bare_project: Project, name: str) -> None:
    ended = bare_project(name, "--help")
    assert ended.code == 0
    assert f"$ onegov-orm {name}" in ended.out
    assert "Exit codes: 0 done, or nothing to do" in words(ended.out)
    assert "In all commands" in ended.out
    assert "--json" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("name", sorted({"drop", "purge", "restore", "downgrade", "stamp"}))
def test_what_destroys_can_be_told_to_go_ahead(bare_project: Project, name: str) -> None:
    assert "--yes" in bare_project(name, "--help").out


def test_the_commands_stand_in_groups(bare_project: Project) -> None:
    text = bare_project("--help").out
    for panel in ("Begin here", "Customers", "The trash", "Copies", "Migrations", "Looking"):
        assert f"─ {panel}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_understood(name: str) -> None:
    command: Any = GROUP.commands[name]
    examples = re.findall(rf"\$ onegov-orm {name}\b ?(.*)", command.help)
    assert examples
    for example in examples:
        words = shlex.split(re.split(r"[<|]", example)[0])
        command.make_context(name, words)


def test_the_version(bare_project: Project) -> None:
    ended = bare_project("--version")
    assert re.fullmatch(r"onegov-orm (\d+\.\d+.*|unknown)\n", ended.out)


def test_the_help_needs_no_sqlalchemy() -> None:
    code = (
        "import sys; from onegov_orm.cli import main; main(['migrate', '--help']);"
        "names = ('sqlalchemy', 'alembic', 'psycopg2', 'transaction');"
        "print([name for name in names if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stderr.strip() == "[]"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_so(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from onegov_orm.cli import main;"
        "sys.exit(main(['--help']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == Exit.USAGE
    assert "pip install 'onegov_orm[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_exit_code_has_a_meaning() -> None:
    assert all(code.meaning for code in Exit)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str) -> None:
    instruction = f"source_{shell}"
    ended = subprocess.run(
        [sys.executable, "-m", "onegov_orm"],
        cwd=ROOT,
        env={"_ONEGOV_ORM_COMPLETE": instruction, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ONEGOV_ORM_COMPLETE" in ended.stdout
