"""Processes that are killed, or asked to stop: every schema is whole, and the next run ends it."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, run_named_step
from onegov_orm.marks import State
from tests.fleet import killing
from tests.processes import nobody_else_stays
from tests.provisioning import relations

CUSTOMERS = 200
KILLS = 5

#: With `ONEGOV_ORM_KILL_SEED` the kills come after the same waits again.
SEED = int(os.environ.get("ONEGOV_ORM_KILL_SEED", "0")) or random.randrange(10**6)


@pytest.fixture
def chance():
    print(f"ONEGOV_ORM_KILL_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture
def execute(plain_dsn, outside):
    return outside(plain_dsn)


@pytest.fixture
def context(plain_dsn, new_manager):
    return FleetContext(new_manager(plain_dsn, killing.BASE, transaction_manager=None))


def state_of(execute, names):
    """Return the customers where all of the step was done; fails for a half of it."""
    assert nobody_else_stays(execute)
    assert execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    owners = dict.fromkeys(names, ())
    rows = " UNION ALL ".join(
        f"SELECT '{name}', array_agg(owner) FROM \"{name}\".log" for name in names
    )
    owners.update({name: tuple(found or ()) for name, found in execute(rows)})
    columns = (
        "SELECT relnamespace::regnamespace::text FROM pg_class JOIN pg_attribute a"
        " ON a.attrelid = pg_class.oid WHERE relname = 't' AND attname = 'a'"
    )
    altered = {name.strip('"') for (name,) in execute(columns)}
    indexed = {
        name.strip('"')
        for (name,) in execute(
            "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 't_a_idx'"
        )
    }
    noted = {
        name
        for (name,) in execute(
            "SELECT nspname FROM pg_namespace"
            f" WHERE obj_description(oid, 'pg_namespace') LIKE '%{killing.STEP}%'"
        )
    }
    for name in names:
        assert owners[name] in ((), (name,)), (name, owners[name])
    done = {name for name in names if owners[name]}
    assert done == altered == indexed == noted
    if done:
        rows = " UNION ALL ".join(f"SELECT '{name}', a FROM \"{name}\".t" for name in done)
        assert sorted(execute(rows)) == sorted((name, name) for name in done)
    return done


def finish(context, names):
    """Run the step to its end, in this process."""
    schemas = [customer.schema for customer in context.customers()]
    report = run_named_step(context, killing.STEP, killing.step, schemas)
    context.manager.engine.dispose()
    assert report.is_ok
    return report


def test_a_run_that_is_killed_leaves_every_schema_whole(context, execute, plain_dsn, chance):
    names = killing.make_customers(execute, CUSTOMERS)
    done = [0]
    for _ in range(KILLS):
        killing.kill_soon(killing.run, plain_dsn, chance)
        done.append(len(state_of(execute, names)))
    assert done == sorted(done)
    assert 0 < done[1] < CUSTOMERS
    report = finish(context, names)
    assert len(report.of(Outcome.SKIPPED)) == done[-1]
    assert len(state_of(execute, names)) == CUSTOMERS


def test_a_request_to_end_is_heard(context, execute, plain_dsn):
    names = killing.make_customers(execute, CUSTOMERS // 2)
    with killing.process(killing.run, plain_dsn) as (process, pipe):
        os.kill(process.pid, signal.SIGTERM)
        assert pipe.poll(20)
        counts = pipe.recv()
        process.join(20)
        assert process.exitcode == 0
    assert counts["failed"] == 0
    assert counts["pending"] > 0
    assert len(state_of(execute, names)) == counts["done"] > 0
    finish(context, names)
    assert len(state_of(execute, names)) == len(names)


def test_who_is_impatient_asks_twice(context, execute, plain_dsn):
    names = killing.make_customers(execute, 8)
    with killing.process(killing.run_long, plain_dsn) as (process, pipe):
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
        while execute(f"{sleeping} AND pid <> pg_backend_pid()") != [(4,)]:
            time.sleep(0.01)
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.1)
        assert pipe.poll(20)
        assert pipe.recv() == {"done": 0, "skipped": 0, "failed": 4, "pending": 4}
        process.join(20)
        assert process.exitcode == 0
    assert state_of(execute, names) == set()


def test_a_purge_that_is_killed_is_ended_by_the_next(context, execute, plain_dsn, chance):
    lifecycle.create(context, "towns-bern")
    execute(
        'DO $$ BEGIN FOR i IN 1..150 LOOP EXECUTE format(\'CREATE TABLE "towns-bern".x%s'
        ' (id serial PRIMARY KEY, other int REFERENCES "towns-bern".t)\', i); END LOOP; END $$'
    )
    trashed = lifecycle.drop(context, "towns-bern")
    context.manager.engine.dispose()
    left = [len(relations(execute, f'"{trashed}"'))]
    for _ in range(2):
        killing.kill_soon(killing.purge, plain_dsn, chance)
        assert nobody_else_stays(execute)
        left.append(len(relations(execute, f'"{trashed}"')))
    assert left == sorted(left, reverse=True)
    assert lifecycle.purge(context).is_ok
    assert lifecycle.trash(context) == []
    assert execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'trash:%'") == [(0,)]


def test_no_customer_is_lost_by_a_kill(context, execute, plain_dsn, chance):
    names = killing.make_customers(execute, 5)
    for name in names:
        execute(f"INSERT INTO \"{name}\".log (owner) VALUES ('{name}')")
    for _ in range(3):
        killing.kill_soon(killing.live, plain_dsn, chance, most_seconds=1)
        assert nobody_else_stays(execute)
    customers = context.customers()
    owners = {
        owner
        for each in customers
        for (owner,) in execute(f'SELECT owner FROM "{each.schema}".log')
    }
    assert owners == set(names)
    assert {each.mark.state for each in customers} == {State.ACTIVE}
    unmarked = (
        "SELECT nspname FROM pg_namespace WHERE nspname ~ '-|:' AND NOT starts_with("
        "COALESCE(obj_description(oid, 'pg_namespace'), ''), 'onegov_orm {')"
    )
    assert execute(unmarked) == []
    shapes = {tuple(relations(execute, f'"{each.schema}"')) for each in customers}
    assert len(shapes) <= 2
    lifecycle.purge(context)
    lifecycle.fill_spares(context, 0)
    assert execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'trash:%'") == [(0,)]
