"""Revisions that Alembic runs in each schema: in processes, outside transactions, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from onegov_orm.fleet import _migration_process, _migration_run
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet._migration_process import ProcessWorker, first_message
from onegov_orm.fleet.migrations import Migrations
from onegov_orm.fleet.runner import Outcome, RunOptions, Stopper
from tests.fleet.migrating import Towns, names, outcomes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    """Have processes at work where it is not worth it: the tests have few schemas."""
    monkeypatch.setattr(_migration_run, "SCHEMAS_PER_PROCESS", 1)


LIVE = """
[owner] = op.get_bind().execute(sa.text("SELECT max(owner) FROM residents")).scalars()
op.add_column("residents", sa.Column("seen", sa.Text, server_default=owner))
"""

CONCURRENTLY = """
with op.get_context().autocommit_block():
    op.create_index("ix_owner", "residents", ["owner"],
        postgresql_concurrently=True, if_not_exists=True)
"""

#: Migrates the fleet of a database; what a test kills.
PROGRAM = """
import sys
from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase
from onegov_orm import SessionManager
from onegov_orm.fleet import _migration_run
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.migrations import Migrations
from onegov_orm.fleet.runner import RunOptions

_migration_run.SCHEMAS_PER_PROCESS = 1

class Base(DeclarativeBase):
    pass

dsn, folder, workers = sys.argv[1:]
mgr = SessionManager(dsn, Base)
migrations = Migrations(FleetContext(mgr), folder)
print("ready", flush=True)
migrations.migrate(replay=False, options=RunOptions(workers=int(workers)))
"""

TWO_PROCESSES = RunOptions(workers=2)


@pytest.fixture
def towns(plain_dsn, new_manager, outside, tmp_path):
    return Towns(plain_dsn, new_manager, outside(plain_dsn), tmp_path / "migrations")


@contextmanager
def program(towns, workers):
    """Run the migrations in a process of their own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, towns.dsn, str(towns.environment.folder), str(workers)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def blocker(towns, schema):
    """Keep a transaction open that has written to the residents of a schema."""
    url = make_url(towns.dsn).set(drivername="postgresql")
    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    with connection.cursor() as cursor:
        cursor.execute(f'UPDATE "{schema}".residents SET age = 1')
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def eventually(condition, seconds=20.0):
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def indexes(towns, schema):
    return dict(
        towns.execute(
            "SELECT relname::text, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
            f""" WHERE relnamespace = '"{schema}"'::regnamespace AND relname LIKE 'ix%'"""
        )
    )


def running(towns, text):
    """Return who runs a statement like this."""
    return towns.execute(
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        f" AND datname = current_database() AND query ILIKE '%{text}%'"
    )


def test_processes_migrate_what_is_live(towns):
    towns.create(*names(5))
    towns.environment.add("one", None, LIVE)
    report = towns.migrations.migrate(options=TWO_PROCESSES)
    assert set(outcomes(report).values()) == {"done"}
    for schema in names(5):
        assert towns.column(schema, "seen") == [schema]
        assert towns.versions(schema) == ["one"]
    assert towns.context.customer("towns-00").mark.migrated is not None


def test_a_failure_in_a_process_is_like_any_other(towns):
    towns.create(*names(2))
    towns.environment.add("one", None, "pass")
    towns.environment.add("two", "one", LIVE + 'op.drop_column("residents", "n" + owner)')
    report = towns.migrations.migrate(options=TWO_PROCESSES)
    assert outcomes(report) == dict.fromkeys(names(2), "failed")
    for result in report.results:
        assert result.error.startswith(f'UndefinedColumn: column "n{result.schema}"')
        assert result.error.endswith("(in revision two)")
    assert "seen" not in towns.columns("towns-00")


def test_a_crash_is_a_failure_of_one_schema(towns):
    towns.create(*names(5))
    crash = LIVE + 'if owner == "towns-02":\n    os.kill(os.getpid(), 9)'
    towns.environment.add("one", None, crash, imports="import os")
    report = towns.migrations.migrate(options=TWO_PROCESSES)
    assert outcomes(report) == dict.fromkeys(names(5), "done") | {"towns-02": "failed"}
    assert "signal 9" in report.of(Outcome.FAILED)[0].error
    assert "seen" not in towns.columns("towns-02")


def test_what_revisions_print_harms_nobody(towns):
    towns.create(*names(2))
    towns.environment.add("one", None, 'print("{}")\nimport sys; sys.stdin.read()')
    assert towns.migrations.migrate(options=TWO_PROCESSES).is_ok


def test_a_process_knows_the_schema_as_alembic_does(towns):
    towns.create(*names(2))
    upgrade = """
    name = context.get_x_argument(as_dictionary=True)["schema"]
    op.execute(f"UPDATE residents SET owner = 'x {name}'")
    """
    towns.environment.add("one", None, upgrade, imports="from alembic import context")
    assert towns.migrations.migrate(options=TWO_PROCESSES).is_ok
    assert towns.column("towns-01", "owner") == ["x towns-01"]


def test_nothing_secret_is_on_the_command_line(towns, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, arguments, **options):
            started.append(arguments)
            super().__init__(arguments, **options)

    monkeypatch.setattr(_migration_process.subprocess, "Popen", Popen)
    towns.create(*names(2))
    towns.environment.add("one", None, LIVE)
    assert towns.migrations.migrate(options=TWO_PROCESSES).is_ok
    assert {tuple(arguments[1:]) for arguments in started} == {
        ("-m", "onegov_orm.fleet._migration_worker")
    }


def test_a_manager_that_cant_be_told_about_is_used_itself(towns, new_manager):
    towns.create(*names(3))
    towns.environment.add("one", None, LIVE)
    towns.manager.engine_config = {"json_serializer": str}
    assert first_message(towns.manager, None) is None
    assert towns.migrations.migrate(options=TWO_PROCESSES).is_ok
    assert towns.column("towns-01", "seen") == ["towns-01"]


def test_a_manager_that_can_be_imported(towns, tmp_path, monkeypatch):
    towns.create(*names(2))
    towns.environment.add("one", None, LIVE)
    (tmp_path / "townsapp.py").write_text(
        "from sqlalchemy.orm import declarative_base\nfrom onegov_orm import SessionManager\n"
        f"def make():\n    return SessionManager({towns.dsn!r}, declarative_base())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = towns.environment.folder
    wrong = Migrations(towns.context, folder, manager_path="os:getpid")
    report = wrong.migrate(options=TWO_PROCESSES)
    assert all("neither a SessionManager" in result.error for result in report.results)
    right = Migrations(towns.context, folder, manager_path="townsapp:make")
    assert right.migrate(options=TWO_PROCESSES).is_ok


@pytest.mark.parametrize("workers", [1, 2])
def test_an_index_that_keeps_nobody_out(towns, workers):
    towns.create(*names(2))
    towns.environment.add("one", None, 'op.add_column("residents", sa.Column("a", sa.Integer))')
    towns.environment.add("two", "one", CONCURRENTLY)
    towns.environment.add("three", "two", 'op.add_column("residents", sa.Column("b", sa.Integer))')
    assert towns.migrations.migrate(options=RunOptions(workers=workers)).is_ok
    assert indexes(towns, "towns-00") == indexes(towns, "towns-01") == {"ix_owner": True}
    assert towns.versions("towns-00") == ["three"]
    assert towns.columns("towns-01") >= {"a", "b"}


def test_an_index_that_keeps_nobody_out_with_every_driver(dsn, new_manager, outside, tmp_path):
    towns = Towns(dsn, new_manager, outside(dsn), tmp_path / "migrations")
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, CONCURRENTLY)
    assert towns.migrations.migrate(options=RunOptions(workers=1)).is_ok
    assert indexes(towns, "towns-a") == indexes(towns, "towns-b") == {"ix_owner": True}
    # No lock is left behind.
    assert towns.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_an_index(towns, workers):
    towns.create(*names(2))
    towns.environment.add("one", None, 'op.add_column("residents", sa.Column("a", sa.Integer))')
    towns.environment.add("two", "one", CONCURRENTLY)
    towns.migrations.migrate("one")
    with blocker(towns, "towns-00"), program(towns, workers) as process:
        eventually(lambda: indexes(towns, "towns-00") == {"ix_owner": False})
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if workers == 2:
            # The process that worked for the killed one cancels the statement, and ends.
            eventually(lambda: not running(towns, "CREATE INDEX"))
        else:
            for (pid,) in running(towns, "CREATE INDEX"):
                towns.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert indexes(towns, "towns-00") == {"ix_owner": False}
    assert towns.versions("towns-00") == ["one"]
    assert towns.migrations.migrate().is_ok
    assert indexes(towns, "towns-00") == indexes(towns, "towns-01") == {"ix_owner": True}
    assert towns.versions("towns-00") == towns.versions("towns-01") == ["two"]


def test_an_index_that_somebody_else_builds_is_left_alone(towns):
    towns.create("towns-00")
    towns.environment.add("one", None, CONCURRENTLY)
    url = make_url(towns.dsn).set(drivername="postgresql").render_as_string(hide_password=False)

    def build():
        connection = psycopg2.connect(url)
        connection.autocommit = True
        connection.cursor().execute(
            'CREATE INDEX CONCURRENTLY ix_mine ON "towns-00".residents (age)'
        )
        connection.close()

    thread = threading.Thread(target=build)
    with blocker(towns, "towns-00"):
        thread.start()
        eventually(lambda: indexes(towns, "towns-00") == {"ix_mine": False})
        runner = threading.Thread(target=towns.migrations.migrate)
        runner.start()
        eventually(lambda: running(towns, "CREATE INDEX CONCURRENTLY IF NOT"))
    thread.join()
    runner.join()
    assert indexes(towns, "towns-00") == {"ix_mine": True, "ix_owner": True}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_stop_ends_what_runs(towns, workers):
    towns.create(*names(3))
    towns.environment.add("one", None, LIVE + 'op.execute("SELECT pg_sleep(60)")')
    stopper = Stopper()
    reports = []

    def migrate():
        reports.append(towns.migrations.migrate(options=RunOptions(workers=workers), stop=stopper))

    thread = threading.Thread(target=migrate)
    thread.start()
    eventually(lambda: len(running(towns, "pg_sleep")) == workers)
    stopper.stop()
    stopper.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert [each.outcome.value for each in reports[0].results].count("failed") == workers
    assert "QueryCanceled" in reports[0].of(Outcome.FAILED)[0].error
    assert "seen" not in towns.columns("towns-00")


def test_a_replay_can_be_ended_too(towns):
    towns.create("towns-00")
    towns.environment.add("one", None, 'op.execute("SELECT pg_sleep(60)")')
    stopper = Stopper()
    thread = threading.Thread(target=lambda: towns.migrations.migrate(stop=stopper))
    thread.start()
    eventually(lambda: running(towns, "pg_sleep"))
    stopper.stop()
    stopper.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_process_ends_with_its_parent(towns):
    towns.create(*names(2))
    towns.environment.add("one", None, LIVE + 'op.execute("SELECT pg_sleep(60)")')
    with program(towns, 2) as process:
        eventually(lambda: len(running(towns, "pg_sleep")) == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not running(towns, "pg_sleep"))
    assert "seen" not in towns.columns("towns-00")


def test_a_process_is_started_when_needed_and_closed(towns):
    worker = ProcessWorker({"manager": None})
    worker.interrupt()
    worker.close()


@pytest.mark.slow
def test_kills_at_random_moments_leave_every_schema_whole(towns):
    towns.create(*names(30))
    towns.environment.add("one", None, 'op.add_column("residents", sa.Column("a", sa.Integer))')
    towns.environment.add("two", "one", LIVE)
    for seconds in (0.05, 0.2, 0.35):
        with program(towns, 2) as process:
            process.stdout.readline()
            eventually(lambda: running(towns, "") or process.poll() is not None)
            time.sleep(seconds)
            process.kill()
            process.wait()
        for schema in names(30):
            is_done = {"a", "seen"} <= towns.columns(schema)
            is_new = towns.columns(schema) == {"id", "owner", "age"}
            assert is_done or is_new
    assert eventually(lambda: towns.migrations.migrate(options=TWO_PROCESSES).is_ok)
    assert {tuple(towns.versions(schema)) for schema in names(30)} == {("two",)}


def test_a_transaction_for_each_revision(towns):
    towns.create("towns-00")
    towns.environment.configure(", transaction_per_migration=True")
    towns.environment.add("one", None, 'op.add_column("residents", sa.Column("a", sa.Integer))')
    towns.environment.add("two", "one", 'op.drop_column("residents", "nothing")')
    [result] = towns.migrations.migrate().results
    assert result.error.endswith("(in revision two)")
    assert towns.versions("towns-00") == ["one"]
    towns.environment.add("two", "one", 'op.drop_column("residents", "age")')
    assert towns.migrations.migrate().is_ok
    assert towns.versions("towns-00") == ["two"]
    assert towns.context.customer("towns-00").mark.migrated is not None


def test_hooks_of_the_application_are_called(towns):
    towns.create("towns-00")
    hook = "def hook(ctx, step, heads, run_args):\n"
    hook += "    ctx.connection.exec_driver_sql('UPDATE residents SET age = 42')\n"
    towns.environment.configure(", on_version_apply=hook", hook)
    towns.environment.add("one", None)
    assert towns.migrations.migrate().is_ok
    assert towns.column("towns-00", "age") == [42]


def test_behind_a_pooler(newest, new_pooler, new_manager, outside, tmp_path):
    name = newest.create()
    direct = newest.server.dsn(name, tcp=False)
    pooler = new_pooler(newest, default_pool_size=2)
    towns = Towns(direct, new_manager, outside(direct), tmp_path / "migrations")
    towns.create(*names(2))
    towns.manager.dispose()
    manager = new_manager(pooler.dsn(name), towns.manager.bases[0], pooler="external")
    migrations = Migrations(FleetContext(manager), towns.environment.folder)
    towns.environment.add("one", None, 'op.add_column("residents", sa.Column("a", sa.Integer))')
    assert migrations.migrate().is_ok
    towns.environment.add("two", "one", LIVE)
    assert migrations.migrate(options=RunOptions(workers=1)).is_ok
    assert towns.column("towns-01", "seen") == ["towns-01"]
    towns.environment.add("three", "two", CONCURRENTLY)
    report = migrations.migrate(options=RunOptions(workers=1))
    assert all("PoolerRestriction" in result.error for result in report.results)
    assert towns.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
