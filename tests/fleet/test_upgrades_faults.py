"""Upgrades of many schemas at once, and upgrades that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text

from onegov_orm import SessionManager
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, RunOptions
from onegov_orm.upgrade import UpgradeContext, Upgrades
from tests.conftest import Execute
from tests.fleet.upgrading import module_of, task
from tests.models import Base, Document

ROOT = Path(__file__).parents[2]
TASKS = "tests.fleet.upgrade_tasks"
Outside = Callable[[str], Execute]


def make_fleet(dsn: str, number: int, new_manager: Callable[..., SessionManager]) -> Any:
    mgr = new_manager(dsn, Base, upgrades=[])
    schemas = [f"towns-{each:02}" for each in range(number)]
    for schema in schemas:
        with mgr.schema(schema) as session:
            session.add(Document(owner=schema))
    return mgr, schemas


def parts_done(execute: Execute, schema: str) -> tuple[int, int, int, int]:
    """Count what was done in a schema: columns, documents, rows with a slug, recorded tasks."""
    ((columns,),) = execute(
        "SELECT count(*) FROM pg_attribute WHERE attname IN ('size', 'slug')"
        f" AND attrelid = '\"{schema}\".documents'::regclass"
    )
    ((documents,),) = execute(f'SELECT count(*) FROM "{schema}".documents')
    if not columns:
        assert execute(f"SELECT to_regclass('\"{schema}\".upgrades')") == [(None,)]
        return columns, documents, 0, 0
    ((slugs,),) = execute(
        f"SELECT count(*) FROM \"{schema}\".documents WHERE slug = '{schema} ' || id"
        f" AND owner = '{schema}'"
    )
    ((recorded,),) = execute(
        f'SELECT count(*) FROM "{schema}".upgrades, jsonb_object_keys(executed_tasks)'
    )
    return columns, documents, slugs, recorded


UNTOUCHED = (0, 1, 0, 0)
WHOLE = (2, 2, 2, 3)


@pytest.mark.slow
def test_a_killed_run_leaves_every_schema_whole_and_is_resumed(
    plain_dsn: str, new_manager: Callable[..., SessionManager], outside: Outside
) -> None:
    mgr, schemas = make_fleet(plain_dsn, 30, new_manager)
    execute = outside(plain_dsn)
    upgrades = Upgrades(FleetContext(mgr), [TASKS])
    kills = 0
    while any(not each.is_current for each in upgrades.status()):
        kills += kill_at_random(plain_dsn)
        wait_for_silence(execute)
        states = Counter(parts_done(execute, schema) for schema in schemas)
        assert states.keys() <= {UNTOUCHED, WHOLE}
        pending = [each for each in upgrades.status() if not each.is_current]
        assert len(pending) == states[UNTOUCHED]
    assert kills > 1
    report = upgrades.upgrade()
    assert len(report.of(Outcome.SKIPPED)) == len(schemas)
    assert {parts_done(execute, schema) for schema in schemas} == {WHOLE}


def kill_at_random(dsn: str) -> bool:
    """Run the upgrade in a process that is killed after some schemas; tell whether it was."""
    program = subprocess.Popen(
        [sys.executable, "-m", TASKS, dsn],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program:
        for _ in range(random.randint(4, 12)):
            if not program.stdout.readline():
                break
        time.sleep(random.uniform(0, 0.05))
        program.send_signal(signal.SIGKILL)
    return program.returncode == -signal.SIGKILL


def wait_for_silence(execute: Execute) -> None:
    """Wait until the server has noticed that the killed program is gone."""
    deadline = time.monotonic() + 20
    while execute(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state <> 'idle'"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_eight_workers_see_no_row_of_another_schema(
    dsn: str, new_manager: Callable[..., SessionManager], outside: Outside
) -> None:
    mgr, schemas = make_fleet(dsn, 16, new_manager)
    threads: set[int] = set()

    def look(context: UpgradeContext) -> None:
        threads.add(threading.get_ident())
        for owner in context.session.scalars(select(Document.owner)):
            assert owner == context.schema
        path = context.connection.scalar(text("SELECT current_schema()"))
        assert path == context.schema

    def operate(context: UpgradeContext) -> None:
        look(context)
        operations = context.operations
        operations.execute("INSERT INTO documents (owner) VALUES (current_schema())")
        assert operations.get_bind() is context.connection
        assert context.session.info["schema"] == context.schema
        assert context.update_enum_values("color", ["RED", "GREEN", str(context.schema)])

    module = module_of("m", *(task(str(n), does=look) for n in range(3)), task("op", does=operate))
    upgrades = Upgrades(FleetContext(mgr), [module, TASKS])
    report = upgrades.upgrade(options=RunOptions(workers=8))
    assert report.is_ok, report
    assert len(threads) > 1
    execute = outside(dsn)
    for schema in schemas:
        owners = execute(f'SELECT owner, count(*) FROM "{schema}".documents GROUP BY owner')
        assert owners == [(schema, 3)]
        assert execute(f'SELECT enum_last(NULL::"{schema}".color)::text') == [(schema,)]


def test_two_runs_at_once_do_everything_once(
    common_dsn: str, new_manager: Callable[..., SessionManager], outside: Outside
) -> None:
    _mgr, schemas = make_fleet(common_dsn, 12, new_manager)
    barrier = threading.Barrier(2)
    reports: list[Any] = []

    def run() -> None:
        upgrades = Upgrades(FleetContext(new_manager(common_dsn, Base, upgrades=[])), [TASKS])
        barrier.wait(20)
        reports.append(upgrades.upgrade(options=RunOptions(workers=3)))

    runs = [threading.Thread(target=run) for _ in range(2)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert len(reports) == 2
    assert all(report.is_ok for report in reports), reports
    assert sum(len(report.of(Outcome.DONE)) for report in reports) == len(schemas)
    execute = outside(common_dsn)
    assert {parts_done(execute, schema) for schema in schemas} == {WHOLE}


def test_a_schema_that_goes_away_is_no_problem_for_the_others(
    common_dsn: str, new_manager: Callable[..., SessionManager], outside: Outside
) -> None:
    """Between the list of the customers and the question what they lack."""
    mgr, schemas = make_fleet(common_dsn, 3, new_manager)
    upgrades = Upgrades(FleetContext(mgr), [module_of("m", task("1"))])
    upgrades.upgrade()
    execute = outside(common_dsn)

    def drop(connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        if "executed_tasks" in statement:
            execute(f'DROP SCHEMA IF EXISTS "{schemas[1]}" CASCADE')

    event.listen(mgr.engine, "before_cursor_execute", drop)
    assert [each.schema for each in upgrades.status()] == [schemas[0], schemas[2]]
    event.remove(mgr.engine, "before_cursor_execute", drop)


def test_a_run_that_is_stopped_leaves_the_rest_pending(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    mgr, _schemas = make_fleet(common_dsn, 6, new_manager)
    stop = threading.Event()
    upgrades = Upgrades(FleetContext(mgr), [module_of("m", task("1"))])
    report = upgrades.upgrade(
        options=RunOptions(workers=1), stop=stop, on_result=lambda *_: stop.set()
    )
    assert len(report.of(Outcome.DONE)) == 1
    assert len(report.of(Outcome.PENDING)) == 5
    assert sum(bool(each.pending) for each in upgrades.status()) == 5


def test_what_is_pending_is_asked_in_batches(
    common_dsn: str, new_manager: Callable[..., SessionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onegov_orm.fleet.upgrades._BATCH_SIZE", 2)
    mgr, schemas = make_fleet(common_dsn, 5, new_manager)
    some = [schemas[number] for number in (0, 3, 4)]
    first = Upgrades(FleetContext(mgr), [module_of("m", task("1"))])
    first.upgrade(schemas=some)
    both = Upgrades(FleetContext(mgr), [module_of("m", task("1"), task("2"))])
    both.upgrade(schemas=[schemas[3]])
    assert [len(each.pending) for each in both.status()] == [1, 2, 2, 0, 1]
