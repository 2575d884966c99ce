"""What the processes do that are killed in the middle of it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Text, text

from onegov_orm import SessionManager
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, RunOptions, Stopper, run_named_step
from onegov_orm.marks import Mark
from tests.provisioning import base_of

BASE = base_of(("t",), ("log", Column("owner", Text)))
OPTIONS = RunOptions(workers=4)
STEP = "add a column"

#: Makes many small customers at once.
MAKE = """
DO $$ BEGIN FOR i IN 1..{count} LOOP
    EXECUTE format('CREATE SCHEMA %1$I; COMMENT ON SCHEMA %1$I IS {comment};
        CREATE TABLE %1$I.t (id serial PRIMARY KEY);
        CREATE TABLE %1$I.log (id serial PRIMARY KEY, owner text)', 'towns-' || i);
    COMMIT;
END LOOP; END $$
"""


def make_customers(execute: Callable[[str], Any], count: int) -> list[str]:
    """Make so many customers, and return their names."""
    comment = Mark.new().comment.replace("'", "''")
    execute(MAKE.format(count=count, comment=f"''{comment}''"))
    return [f"towns-{number}" for number in range(1, count + 1)]


def step(connection: Any, schema: str) -> None:
    """Change several tables; each row carries the schema's name."""
    connection.execute(text("INSERT INTO log (owner) VALUES (:schema)"), {"schema": schema})
    connection.execute(text("ALTER TABLE t ADD COLUMN a text"))
    connection.execute(text("SELECT pg_sleep(0.002)"))
    connection.execute(text("INSERT INTO t (a) VALUES (:schema)"), {"schema": schema})
    connection.execute(text("CREATE INDEX ON t (a)"))


def long_step(connection: Any, schema: str) -> None:
    """Take longer than anybody waits."""
    step(connection, schema)
    connection.execute(text("SELECT pg_sleep(60)"))


def new_context(dsn: str) -> FleetContext:
    """Return a fleet's context of this process."""
    return FleetContext(SessionManager(dsn, BASE, transaction_manager=None))


def run(dsn: str, pipe: Any, step: Any = step) -> None:
    """Run the step in all customers; tells of the first result, and the counts."""
    context, stopper = new_context(dsn), Stopper()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopper.stop())
    schemas = [customer.schema for customer in context.customers()]
    heard = itertools.count(int(step is long_step))
    if step is long_step:
        pipe.send("begun")

    def hear(*_: Any) -> None:
        if not next(heard):
            pipe.send("begun")

    report = run_named_step(
        context, STEP, step, schemas, options=OPTIONS, on_result=hear, stop=stopper
    )
    pipe.send({outcome.value: len(report.of(outcome)) for outcome in Outcome})
    context.manager.dispose()


def run_long(dsn: str, pipe: Any) -> None:
    """Run a step that takes too long."""
    run(dsn, pipe, long_step)


def purge(dsn: str, pipe: Any) -> None:
    """Purge what is in the trash, in small portions."""
    lifecycle._purging._MOST_THINGS = 5
    context = new_context(dsn)
    pipe.send("begun")
    lifecycle.purge(context)


def live(dsn: str, pipe: Any) -> None:
    """Make, rename, drop and bring back customers, for ever."""
    context = new_context(dsn)
    chance = random.Random(os.getpid())
    pipe.send("begun")
    while True:
        names = [str(customer.schema) for customer in context.customers()]
        number = chance.randrange(10**6)
        lifecycle.create(context, f"new-{number}")
        lifecycle.rename(context, chance.choice(names), f"renamed-{number}")
        dropped = lifecycle.drop(context, f"new-{number}")
        lifecycle.undo(context, dropped, to=f"back-{number}")
        lifecycle.fill_spares(context, 1)
        lifecycle.drop(context, f"back-{number}", purge=True)


@contextmanager
def process(work: Callable[[str, Any], None], dsn: str) -> Iterator[tuple[Any, Any]]:
    """Start a process that works, and give it and its end of the pipe when it has begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fleet.killing"])
    ours, theirs = context.Pipe()
    started = context.Process(target=work, args=(dsn, theirs))
    started.start()
    theirs.close()
    try:
        if not ours.poll(60) or ours.recv() != "begun":
            raise AssertionError("the process did not begin")
        yield started, ours
    finally:
        if started.is_alive():
            started.kill()
        started.join(30)
        ours.close()


def kill_soon(
    work: Callable[[str, Any], None], dsn: str, chance: random.Random, most_seconds: float = 0.25
) -> None:
    """Start a process, and kill it at a random moment of its work."""
    with process(work, dsn) as (started, _):
        time.sleep(chance.uniform(0, most_seconds))
        started.kill()
