"""Python in one schema: scripts, and what they leave behind."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from onegov_orm.cli._exits import Exit
from tests.cli.conftest import Look, Project

ADD = "session.add(Resident(name='Ada'))"
COUNT = "print(session.query(Resident).count())"


@pytest.fixture
def bern(project: Project) -> Project:
    project("create", "towns-bern")
    return project


def test_a_script_sees_models_and_session(bern: Project) -> None:
    ended = bern("shell", "towns-bern", "-c", f"{ADD}; {COUNT}; print(fleet.select(), mgr)")
    assert ended.code == 0
    assert ended.out.startswith("1\n['towns-bern'] <")


def test_it_rolls_back_unless_told_otherwise(bern: Project) -> None:
    bern("shell", "towns-bern", "-c", ADD)
    assert bern("shell", "towns-bern", "-c", COUNT).out == "0\n"
    bern("shell", "towns-bern", "-c", ADD, "--commit")
    bern("shell", "towns-bern", "-c", f"{ADD}; commit(); {ADD}; rollback(); {ADD}")
    assert bern("shell", "towns-bern", "-c", COUNT).out == "2\n"


def test_an_error_commits_nothing(bern: Project) -> None:
    ended = bern("shell", "towns-bern", "-c", f"{ADD}; session.flush(); 1 / 0", "--commit")
    assert ended.code == Exit.FAILED
    assert "ZeroDivisionError" in ended.err
    assert bern("shell", "towns-bern", "-c", COUNT).out == "0\n"


def test_a_script_that_is_no_python(bern: Project) -> None:
    ended = bern("shell", "towns-bern", "-c", "this is no python")
    assert ended.code == Exit.FAILED
    assert "SyntaxError" in ended.err


def test_a_script_may_come_from_stdin_and_end_by_itself(bern: Project) -> None:
    script = f"def add():\n    {ADD}\n\nadd()\ncommit()\nraise SystemExit(9)\n"
    assert bern.run("shell", "towns-bern", text=script).code == 9
    assert bern("shell", "towns-bern", "-c", COUNT).out == "1\n"


def test_on_a_terminal_the_prompt_names_the_schema(bern: Project, look: Look) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onegov_orm", "shell", "towns-bern"],
        cwd=bern.folder,
        env=bern.environment(TERM="dumb"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(ours, f"{ADD}\ncommit()\n\x04".encode())
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "models: Base, Resident" in out or "models: Resident" in out
    assert "towns-bern>>> " in out
    assert look('SELECT count(*) FROM "towns-bern".residents') == [(1,)]
