"""Migrations and other runs over many schemas: reports, exit codes, Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from onegov_orm.cli._exits import Exit
from tests.cli.conftest import EMAIL, MODELS, TIMEOUT_SECONDS, Ended, Look, Project

#: For shells; the path may have spaces.
PYTHON = shlex.quote(sys.executable)


@pytest.fixture
def migrated(project: Project) -> Project:
    """A project with one revision and no schema."""
    assert project("init").code == 0
    assert project("revision", "residents").code == 0
    return project


def add_revision(project: Project, sql: str) -> str:
    """Write a revision that adds a column, and then runs some SQL; return its id."""
    project.write("towns.py", MODELS + EMAIL)
    [file] = project("revision", "email", "--json").data["files"]
    path = Path(file)
    text = path.read_text()
    end = text.index("def downgrade")
    path.write_text(f'{text[:end].rstrip()}\n    op.execute("{sql}")\n\n\n{text[end:]}')
    found = re.search(r"revision = '(\w+)'", text)
    assert found is not None
    return found[1]


def stands(project: Project, look: Look) -> dict[str, bool]:
    """Return for each schema whether it is migrated; fail if one is so in part."""
    found = {}
    for schema in project("list", "--names").out.split():
        [(version,)] = look(f'SELECT version_num FROM "{schema}".alembic_version')
        columns = look(
            "SELECT 1 FROM information_schema.columns "
            f"WHERE table_schema = '{schema}' AND column_name = 'email'"
        )
        found[schema] = bool(columns)
        assert bool(columns) == (version == project.newest), schema
    return found


@pytest.fixture
def new_fleet(migrated: Project) -> Callable[[int, str], Project]:
    """Make so many schemas, and a revision that is pending in all of them."""

    def make(count: int, sql: str = "SELECT 1") -> Project:
        names = [f"towns-{number:02}" for number in range(count)]
        assert migrated("create", *names).code == 0
        migrated.newest = add_revision(migrated, sql)
        return migrated

    return make


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def sleepers(look: Look) -> int:
    [(count,)] = look(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' "
        "AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    return int(count)


def test_from_status_to_migrate(new_fleet: Callable[..., Project], look: Look) -> None:
    fleet = new_fleet(3)
    assert fleet("status").code == 0
    assert fleet("status", "--exit-code").code == Exit.FOUND
    lines = fleet("status").out.splitlines()
    assert lines[0].split() == ["schema", "revision", fleet.newest]
    assert [line.split()[-1] for line in lines[1:4]] == ["pending"] * 3
    assert f"{fleet.newest}  email" in lines
    shown = fleet("migrate", "--dry-run")
    assert shown.code == 0
    assert "ALTER TABLE residents ADD COLUMN email" in shown.out
    assert not any(stands(fleet, look).values())
    ended = fleet("migrate", "towns-00", "--json")
    assert ended.data["counts"]["done"] == 1
    assert [line.split()[0] for line in fleet("status").out.splitlines()[1:3]] == [
        "towns-01",
        "towns-02",
    ]
    assert fleet("migrate", "--canary", "1", "--wave", "1", "-w", "2").code == 0
    assert all(stands(fleet, look).values())
    assert "nothing is pending" in fleet("status", "--exit-code").out
    again = fleet("migrate")
    assert again.code == 0
    assert "3 skipped in" in again.out


def test_downgrade_and_stamp_ask(new_fleet: Callable[..., Project], look: Look) -> None:
    fleet = new_fleet(2)
    assert fleet("migrate").code == 0
    ended = fleet("downgrade", "--to", "-1")
    assert ended.code == Exit.USAGE
    assert "Downgrade the whole fleet to -1?" in ended.err
    assert all(stands(fleet, look).values())
    assert fleet("downgrade", "towns-00", "--to", "-1", "--yes").code == 0
    assert stands(fleet, look) == {"towns-00": False, "towns-01": True}
    assert fleet("stamp", "--to", "heads").code == Exit.USAGE
    assert fleet("stamp", "towns-01", "--to", "heads").code == 0


def test_history(new_fleet: Callable[..., Project]) -> None:
    fleet = new_fleet(1)
    newest, oldest = fleet("history", "--json").data
    assert newest["follows"] == [oldest["revision"]]
    assert fleet("history").out.splitlines()[1].split()[0] == newest["revision"]


def test_a_failure_is_told_first_and_keeps_nobody(
    new_fleet: Callable[..., Project], look: Look
) -> None:
    fleet = new_fleet(30, "ALTER TABLE residents ADD UNIQUE (name)")
    look("""INSERT INTO "towns-07".residents (name) VALUES ('Ada'), ('Ada')""")
    ended = fleet("migrate")
    assert ended.code == Exit.FAILED
    lines = ended.out.splitlines()
    assert lines[1].split()[:2] == ["towns-07", "failed"]
    assert "UniqueViolation" in lines[1]
    assert lines[-1].startswith("29 done, 1 failed in ")
    assert len(lines) == 4
    assert [name for name, is_done in stands(fleet, look).items() if not is_done] == ["towns-07"]
    assert len(fleet("migrate", "--verbose").out.splitlines()) == 33


def test_fail_fast_leaves_the_others(new_fleet: Callable[..., Project]) -> None:
    fleet = new_fleet(6, "SELECT 1 / 0")
    ended = fleet("migrate", "--fail-fast", "-w", "1", "--json")
    assert ended.code == Exit.FAILED
    assert ended.data["counts"] == {"done": 0, "skipped": 0, "failed": 1, "pending": 5}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)]
)
def test_a_signal_finishes_what_is_in_flight(
    new_fleet: Callable[..., Project], look: Look, number: int, code: Exit
) -> None:
    fleet = new_fleet(50 if number == signal.SIGINT else 10, "SELECT pg_sleep(0.2)")
    process = fleet.process("migrate", "--json", "-w", "2")
    wait_for(lambda: sleepers(look) > 0)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == code, ended.err
    assert "what is in flight is finished" in ended.err
    assert ended.data["was_stopped"]
    counts = ended.data["counts"]
    found = stands(fleet, look)
    assert counts["failed"] == 0
    assert 0 < counts["done"] == sum(found.values()) < len(found)
    assert counts["pending"] == len(found) - counts["done"]


def test_the_second_signal_undoes_what_is_in_flight(
    new_fleet: Callable[..., Project], look: Look
) -> None:
    fleet = new_fleet(5, "SELECT pg_sleep(300)")
    process = fleet.process("migrate", "--json", "-w", "2")
    wait_for(lambda: sleepers(look) == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Once more" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == Exit.INTERRUPTED, ended.err
    assert ended.data["counts"] == {"done": 0, "skipped": 0, "failed": 2, "pending": 3}
    assert not any(stands(fleet, look).values())
    assert sleepers(look) == 0


def test_ctrl_c_undoes_a_single_command(migrated: Project, look: Look) -> None:
    migrated("create", "towns-bern")
    look('BEGIN; LOCK TABLE "towns-bern".residents IN ACCESS EXCLUSIVE MODE')
    process = migrated.process("clone", "towns-bern", "towns-copy")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM "
    wait_for(lambda: look(f"{waiting}pg_database WHERE datname = current_database())") != [(0,)])
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    look("ROLLBACK")
    assert ended.code == Exit.INTERRUPTED, ended.err
    assert "Traceback" not in ended.err
    assert migrated("list", "--names").out == "towns-bern\n"


@pytest.mark.slow
def test_slow_runs_tell_how_far_they_are(new_fleet: Callable[..., Project]) -> None:
    ended = new_fleet(4, "SELECT pg_sleep(0.5)").run("migrate", "-w", "1")
    assert re.search(r"^Migrating: \d of 4 schemas$", ended.err, re.MULTILINE)
    assert "\x1b" not in ended.out + ended.err


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals(migrated: Project, no_color: str) -> None:
    migrated("create", "towns-bern")
    ours, theirs = pty.openpty()
    environment = migrated.environment(TERM="xterm-256color", COLUMNS="100")
    if no_color:
        environment["NO_COLOR"] = no_color
    subprocess.run(
        [sys.executable, "-m", "onegov_orm", "list"],
        cwd=migrated.folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=TIMEOUT_SECONDS,
    )
    os.close(theirs)
    text = b""
    with suppress(OSError):
        while chunk := os.read(ours, 4096):
            text += chunk
    os.close(ours)
    assert b"towns-bern" in text
    assert (b"\x1b[32m" in text) != bool(no_color)


def test_schemas_are_completed(migrated: Project) -> None:
    migrated("create", "towns-bern", "hills-uetli")
    environment = migrated.environment(
        _ONEGOV_ORM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="onegov-orm drop to"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "onegov_orm"],
        cwd=migrated.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "towns-bern" in ended.stdout
    assert "hills" not in ended.stdout


def test_upgrade_tasks(migrated: Project, look: Look) -> None:
    migrated("create", "towns-bern")
    migrated.write(
        "tasks.py",
        "from sqlalchemy import text\n"
        "from onegov_orm.upgrade import upgrade_task\n\n"
        "@upgrade_task('Name everybody Ada')\n"
        "def name(context):\n"
        "    context.session.execute(text(\"INSERT INTO residents (name) VALUES ('Ada')\"))\n",
    )
    migrated.configure(
        dsn=migrated.dsn, base="towns:Base", required_extensions=[], upgrades=["tasks"]
    )
    ended = migrated("upgrade", "--dry-run", "--exit-code")
    assert ended.code == Exit.FOUND
    assert "pending" in ended.out
    assert migrated("upgrade", "--json").data["counts"]["done"] == 1
    assert look('SELECT name FROM "towns-bern".residents') == [("Ada",)]
    assert migrated("upgrade", "--dry-run", "--exit-code").code == 0


def test_check_finds_what_was_altered(migrated: Project, look: Look) -> None:
    migrated("create", "towns-bern", "towns-basel", "towns-chur")
    assert migrated("check").code == 0
    look('ALTER TABLE "towns-bern".residents ALTER name DROP NOT NULL')
    ended = migrated("check")
    assert ended.code == Exit.FOUND
    assert "towns-bern  column residents.name" in ended.out
    assert migrated("check", "--json").data["drifted"] == ["towns-bern"]
    assert migrated("check", "towns-basel").code == 0


def test_dump_and_restore(migrated: Project, look: Look) -> None:
    migrated("create", "towns-bern")
    look("""INSERT INTO "towns-bern".residents (name) VALUES ('Ada')""")
    assert migrated("dump", "towns-bern").code == 0
    assert migrated("dump", "towns-bern").code == Exit.EXISTS
    assert migrated("dump", "towns-bern", "--force", "--json").data["size_bytes"] > 0
    assert migrated("restore", "towns-bern.dump").code == Exit.EXISTS
    assert migrated("restore", "towns-bern.dump", "--to", "towns-copy").code == 0
    assert look('SELECT name FROM "towns-copy".residents') == [("Ada",)]
    assert migrated("restore", "towns-bern.dump", "--replace").code == Exit.USAGE
    assert migrated("restore", "towns-bern.dump", "--replace", "--yes").code == 0
    assert [each["name"] for each in migrated("trash", "--json").data] == ["towns-bern"]
    Path("bad.dump").write_text("nothing")
    assert migrated("restore", "bad.dump").code == Exit.FAILED


def test_a_failed_replacement_puts_everything_back(migrated: Project, look: Look) -> None:
    migrated("create", "towns-bern")
    migrated("dump", "towns-bern")
    path = Path("towns-bern.dump")
    path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"XX\x03\x04", 1))
    ended = migrated("restore", "towns-bern.dump", "--to", "towns-bern", "--replace", "--yes")
    assert ended.code == Exit.FAILED
    assert migrated("list", "--names").out == "towns-bern\n"


@pytest.mark.slow
def test_a_dump_travels_through_pipes(migrated: Project) -> None:
    migrated("create", "towns-bern")
    command = (
        f"{PYTHON} -m onegov_orm dump towns-bern - | "
        f"{PYTHON} -m onegov_orm restore - --to towns-copy"
    )
    subprocess.run(
        command, shell=True, cwd=migrated.folder, env=migrated.environment(), check=True
    )
    assert migrated("list", "--names").out == "towns-bern\ntowns-copy\n"


def test_the_doctor_shows_configuration_and_verdicts(migrated: Project) -> None:
    ended = migrated("doctor")
    assert ended.code == 0, ended.out
    assert re.search(r"^dsn +postgresql://.* pyproject.toml$", ended.out, re.MULTILINE)
    assert re.search(r"^connection +ok ", ended.out, re.MULTILINE)
    data = migrated("doctor", "--json").data
    assert {"configuration", "files", "verdicts"} == set(data)
    assert all({"name", "level", "message", "advice"} == set(each) for each in data["verdicts"])


def test_the_doctor_without_a_server(bare_project: Project) -> None:
    ended = bare_project("doctor")
    assert ended.code == Exit.FOUND
    assert "postgresql://app:***@127.0.0.1:1/towns" in ended.out
    assert re.search(r"^connection +error ", ended.out, re.MULTILINE)
    assert "geheim" not in ended.out + ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_the_demo_shows_it_all(bare_project: Project) -> None:
    ended = bare_project.run("demo")
    assert ended.code == 0, ended.out + ended.err
    assert "\x1b" not in ended.out
    assert "towns-basel  column residents.name" in ended.out
    assert "towns-bern is back" in ended.out
    assert ended.out.count("$ onegov-orm ") == 16


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 1), ("\x04", 1, 1)])
def test_on_a_terminal_it_asks(migrated: Project, answer: str, code: int, left: int) -> None:
    migrated("create", "towns-bern")
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with migrated.process("drop", "towns-bern", "--purge", "--json", stdin=theirs) as process:
        ended = finish(process)
    os.close(ours)
    os.close(theirs)
    assert ended.code == code, ended.err
    assert "Destroy for good: towns-bern (" in ended.err
    assert ("Nothing was done" in ended.err) == bool(left)
    assert len(migrated("list", "--names", "--json").data) == left


def test_letters_are_no_reason_to_fail(migrated: Project) -> None:
    migrated("create", "towns-zuerich")
    migrated("note", "towns-zuerich", "Z\xfcrich")
    for flags in (["--json"], []):
        ended = subprocess.run(
            [sys.executable, "-m", "onegov_orm", "list", *flags],
            cwd=migrated.folder,
            env=migrated.environment(PYTHONIOENCODING="ascii"),
            capture_output=True,
            encoding="ascii",
            check=True,
        )
        assert "rich" in ended.stdout


def test_closed_streams_are_no_reason_to_fail(migrated: Project) -> None:
    migrated("create", "towns-bern")
    command = f"{PYTHON} -m onegov_orm drop towns-bern --purge --yes <&- >&-"
    subprocess.run(
        command, shell=True, cwd=migrated.folder, env=migrated.environment(), check=True
    )
    assert migrated("list", "--json").data == []


def test_nothing_chosen_is_not_everything(new_fleet: Callable[..., Project], look: Look) -> None:
    fleet = new_fleet(2)
    ended = fleet("migrate", "--exclude", "*")
    assert ended.code == 0
    assert "no schema in" in ended.out
    assert not any(stands(fleet, look).values())
