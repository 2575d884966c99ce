"""The life of one customer: made, renamed, dropped, brought back, suspended, adopted."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from psycopg2.errors import DeadlockDetected
from sqlalchemy import select, text
from sqlalchemy.engine import make_url

from onegov_orm import (
    ConfigurationError,
    ForeignSchema,
    InvalidSchemaName,
    NotInTrash,
    OrmError,
    PermissionDenied,
    SchemaBusy,
    SchemaExists,
    SchemaNotFound,
    SchemaSuspended,
)
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome
from onegov_orm.marks import LIVE, State
from onegov_orm.provisioning import lock
from tests.models import Base, Document
from tests.provisioning import has_schema

BERN, BASEL = "towns-bern", "towns-basel"


@pytest.fixture
def context(common_dsn, new_manager):
    return FleetContext(new_manager(common_dsn, Base, transaction_manager=None))


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.LOCK_TIMEOUT_SECONDS", 0.3)


def settle(context, *names):
    """Make customers, each with a document that tells its owner."""
    for name in names:
        lifecycle.create(context, name)
        with context.manager.schema(name) as session:
            session.add(Document(owner=name))


def owners(context, name):
    with context.manager.schema(name, create=False) as session:
        return list(session.scalars(select(Document.owner).order_by(Document.id)))


def names_of(context, states=LIVE):
    return [str(customer.schema) for customer in context.customers(states=states)]


# -- names


def test_a_customer_is_made(context):
    lifecycle.create(context, BERN)
    assert owners(context, BERN) == []
    customer = context.customer(BERN)
    assert customer.mark.state is State.ACTIVE
    assert customer.mark.created is not None


def test_a_customer_that_exists_is_not_made(context):
    settle(context, BERN)
    with pytest.raises(SchemaExists, match="another name"):
        lifecycle.create(context, BERN)
    assert owners(context, BERN) == [BERN]


def test_a_customer_is_made_anew_after_another_process_has_dropped_it(context, execute):
    settle(context, BERN)
    execute(f'DROP SCHEMA "{BERN}" CASCADE')
    lifecycle.create(context, BERN)
    assert owners(context, BERN) == []


def test_a_customer_gets_another_name(context, execute):
    settle(context, BERN)
    lifecycle.annotate(context, BERN, "moves")
    before = context.customer(BERN).mark
    lifecycle.rename(context, BERN, BASEL)
    assert context.customer(BASEL).mark == before
    assert owners(context, BASEL) == [BERN]
    with pytest.raises(SchemaNotFound):
        owners(context, BERN)
    assert not has_schema(execute, f'"{BERN}"')


def test_the_old_name_is_free_for_a_new_customer(context):
    settle(context, BERN)
    lifecycle.rename(context, BERN, BASEL)
    assert context.manager.schema(BERN) is not None
    settle(context, BERN)
    assert (owners(context, BASEL), owners(context, BERN)) == ([BERN], [BERN])


def test_the_name_has_to_be_free(context):
    settle(context, BERN, BASEL)
    for new in (BASEL, BERN):
        with pytest.raises(SchemaExists):
            lifecycle.rename(context, BERN, new)
    assert owners(context, BERN) == [BERN]


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        (lifecycle.rename, [BASEL]),
        (lifecycle.drop, []),
        (lifecycle.suspend, []),
        (lifecycle.resume, []),
        (lifecycle.annotate, ["note"]),
    ],
)
def test_only_customers_are_touched(context, execute, change, arguments):
    execute(f'CREATE SCHEMA "{BERN}"; COMMENT ON SCHEMA "{BERN}" IS \'ours\'')
    with pytest.raises(ForeignSchema, match="adopt"):
        change(context, BERN, *arguments)
    with pytest.raises(SchemaNotFound):
        change(context, "towns-nowhere", *arguments)
    for bad in ("public", "extensions", "pg_catalog", "Bern", "trash:0123", "", "a;b"):
        with pytest.raises(InvalidSchemaName):
            change(context, bad, *arguments)
    comment = "SELECT obj_description(to_regnamespace('\"towns-bern\"'), 'pg_namespace')"
    assert execute(comment) == [("ours",)]


def test_no_customer_gets_a_bad_name(context):
    settle(context, BERN)
    for bad in ("public", "Basel", "trash:0123", "x" * 64):
        with pytest.raises(InvalidSchemaName):
            lifecycle.rename(context, BERN, bad)
        with pytest.raises(InvalidSchemaName):
            lifecycle.create(context, bad)


def test_a_transaction_in_the_schema_is_waited_for(context, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.LOCK_TIMEOUT_SECONDS", 10)
    settle(context, BERN)
    with context.manager.schema(BERN) as session:
        session.add(Document(owner=BERN))
        session.flush()
        thread = threading.Thread(target=lifecycle.rename, args=(context, BERN, BASEL))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert owners(context, BASEL) == [BERN, BERN]


@pytest.mark.parametrize("change", [lambda *args: lifecycle.rename(*args, BASEL), lifecycle.drop])
def test_a_customer_at_work_is_not_moved(context, change):
    settle(context, BERN)
    with context.manager.schema(BERN) as session:
        # A reader is enough: what it has read must not be written somewhere else.
        pid = session.execute(text("SELECT pg_backend_pid() FROM documents")).scalar()
        with pytest.raises(SchemaBusy, match=f"process {pid}, .* for") as caught:
            change(context, BERN)
    assert len(caught.value.holders) == 1
    assert owners(context, BERN) == [BERN]


def test_a_schema_with_more_tables_than_locks_is_only_looked_at(context, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.lock_capacity", lambda connection: 4)
    settle(context, BERN)
    with context.manager.schema(BERN) as session:
        session.scalars(select(Document)).all()
        with pytest.raises(SchemaBusy):
            lifecycle.rename(context, BERN, BASEL)
    lifecycle.rename(context, BERN, BASEL)
    assert owners(context, BASEL) == [BERN]


def test_who_waits_in_a_circle_is_told_that_others_work(context, execute, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.LOCK_TIMEOUT_SECONDS", 5)
    settle(context, BERN)
    # The tables are locked in the order in which they were made.
    execute(f'BEGIN; SELECT FROM "{BERN}".persons')
    errors = []

    def rename():
        try:
            lifecycle.rename(context, BERN, BASEL)
        except SchemaBusy as error:
            errors.append(error)

    thread = threading.Thread(target=rename)
    thread.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with context.connected() as connection:
        while connection.exec_driver_sql(waiting).scalar() == 0:
            time.sleep(0.01)
    try:
        execute(f'SELECT FROM "{BERN}".documents')
    except DeadlockDetected:
        assert not errors
    else:
        thread.join(10)
        assert len(errors) == 1
    execute("ROLLBACK")
    thread.join(10)


def test_a_step_in_the_schema_is_waited_for(context):
    settle(context, BERN)
    with context.connected() as connection, connection.begin():
        lock(connection, f"schema {BERN}")
        for change in (lifecycle.suspend, lifecycle.drop):
            with pytest.raises(SchemaBusy, match="process"):
                change(context, BERN)


# -- the trash


def test_a_dropped_customer_is_gone_and_its_name_is_free(context):
    settle(context, BERN)
    name = lifecycle.drop(context, BERN)
    assert name.startswith("trash:")
    assert names_of(context) == []
    assert context.manager.list_schemas() == []
    with pytest.raises(SchemaNotFound):
        owners(context, BERN)
    settle(context, BERN)
    assert owners(context, BERN) == [BERN]


def test_the_trash_tells_what_is_there(context):
    settle(context, BERN, BASEL)
    names = [lifecycle.drop(context, name) for name in (BERN, BASEL)]
    found = lifecycle.trash(context)
    assert [(each.schema, each.name) for each in found] == [(names[1], BASEL), (names[0], BERN)]
    for each in found:
        assert each.size_bytes > 10_000
        assert each.dropped is not None
        assert not each.is_partial
        assert each.as_dict()["dropped"] == each.dropped.isoformat()


def test_a_dropped_customer_comes_back(context):
    settle(context, BERN)
    lifecycle.annotate(context, BERN, "a note")
    before = context.customer(BERN).mark
    name = lifecycle.drop(context, BERN)
    assert lifecycle.undo(context, name) == BERN
    assert owners(context, BERN) == [BERN]
    after = context.customer(BERN).mark
    assert (after.created, after.note, after.name) == (before.created, "a note", "")
    assert lifecycle.trash(context) == []


def test_a_suspended_customer_comes_back_suspended(context):
    settle(context, BERN)
    lifecycle.suspend(context, BERN)
    lifecycle.drop(context, BERN)
    lifecycle.undo(context, BERN)
    with pytest.raises(SchemaSuspended):
        owners(context, BERN)


def test_the_one_that_was_dropped_last_comes_back(context):
    for number in range(3):
        lifecycle.create(context, BERN)
        lifecycle.annotate(context, BERN, f"number {number}")
        lifecycle.drop(context, BERN)
    for expected in ("number 2", "number 1"):
        lifecycle.undo(context, BERN, to=f"b-{expected[-1]}")
        assert context.customer(f"b-{expected[-1]}").mark.note == expected
    assert [each.name for each in lifecycle.trash(context)] == [BERN]


def test_a_taken_name_is_not_taken_away(context):
    settle(context, BERN)
    lifecycle.drop(context, BERN)
    settle(context, BERN)
    with pytest.raises(SchemaExists, match="under another name, with undo"):
        lifecycle.undo(context, BERN)
    assert lifecycle.undo(context, BERN, to=BASEL) == BASEL
    assert owners(context, BASEL) == [BERN]


def test_what_is_not_in_the_trash_does_not_come_back(context):
    settle(context, BERN)
    for name in (BERN, "towns-nowhere", "trash:0123", "'; --"):
        with pytest.raises(NotInTrash):
            lifecycle.undo(context, name)
        with pytest.raises(NotInTrash):
            lifecycle.purge(context, [name])
    assert owners(context, BERN) == [BERN]


def test_purging(context, execute):
    settle(context, BERN, BASEL)
    names = [lifecycle.drop(context, name) for name in (BERN, BASEL)]
    heard = []
    report = lifecycle.purge(context, [BERN], on_result=lambda *args: heard.append(args))
    assert [(each.schema, each.outcome) for each in report.results] == [(names[0], Outcome.DONE)]
    assert [(number, total) for _, number, total in heard] == [(1, 1)]
    assert [each.name for each in lifecycle.trash(context)] == [BASEL]
    assert lifecycle.purge(context).is_ok
    assert lifecycle.trash(context) == []
    assert execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 't%'") == []


def test_all_of_a_name_are_purged(context):
    for _ in range(2):
        lifecycle.create(context, BERN)
        lifecycle.drop(context, BERN)
    settle(context, BERN)
    assert len(lifecycle.purge(context, [BERN]).results) == 2
    assert owners(context, BERN) == [BERN]


def test_what_was_dropped_lately_can_be_left(context, execute):
    settle(context, BERN, BASEL)
    old, _ = (lifecycle.drop(context, name) for name in (BERN, BASEL))
    execute(
        f"DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA %I IS %L', '{old}', regexp_replace("
        f'obj_description(\'"{old}"\'::regnamespace), \'"changed": "20..\', \'"changed": "19\''
        " || '99')); END $$"
    )
    report = lifecycle.purge(context, older_than=timedelta(days=30))
    assert [result.schema for result in report.results] == [old]
    assert [each.name for each in lifecycle.trash(context)] == [BASEL]
    with pytest.raises(ConfigurationError):
        lifecycle.purge(context, BASEL)


def test_a_customer_is_dropped_for_good(context, execute):
    settle(context, BERN)
    name = lifecycle.drop(context, BERN, purge=True)
    assert name.startswith("trash:")
    assert lifecycle.trash(context) == []
    assert not has_schema(execute, f'"{name}"')


def test_what_is_half_gone_does_not_come_back(context, execute, monkeypatch):
    settle(context, BERN)
    lifecycle.drop(context, BERN)
    stop = threading.Event()
    stop.set()
    with pytest.raises(OrmError, match="the next purge goes on"):
        lifecycle.Purger(context, stop).work(lifecycle.trash(context)[0].schema)
    assert lifecycle.trash(context)[0].is_partial
    with pytest.raises(OrmError, match="can't come back"):
        lifecycle.undo(context, BERN)
    assert lifecycle.purge(context).is_ok
    assert lifecycle.trash(context) == []


# -- states and notes


def test_a_suspended_customer_is_refused(context):
    settle(context, BERN)
    lifecycle.suspend(context, BERN, "unpaid")
    assert context.customer(BERN).mark.note == "unpaid"
    for options in ({}, {"create": False}, {"readonly": True}):
        refused = pytest.raises(SchemaSuspended, match="resume")
        with refused, context.manager.schema(BERN, **options) as session:
            session.scalars(select(Document)).all()
    lifecycle.resume(context, BERN)
    assert owners(context, BERN) == [BERN]
    assert context.customer(BERN).mark.note == "unpaid"


def test_suspending_twice_keeps_the_date_and_changes_the_note(context):
    settle(context, BERN)
    lifecycle.resume(context, BERN)
    assert context.customer(BERN).mark.changed is None
    lifecycle.suspend(context, BERN, "first")
    changed = context.customer(BERN).mark.changed
    lifecycle.suspend(context, BERN)
    assert context.customer(BERN).mark.note == "first"
    lifecycle.suspend(context, BERN, "second")
    mark = context.customer(BERN).mark
    assert (mark.note, mark.changed) == ("second", changed)


def test_a_suspended_customer_can_be_renamed_and_dropped(context):
    settle(context, BERN)
    lifecycle.suspend(context, BERN)
    lifecycle.rename(context, BERN, BASEL)
    assert context.customer(BASEL).mark.state is State.SUSPENDED
    lifecycle.drop(context, BASEL)
    assert names_of(context) == []


def test_steps_run_for_suspended_customers(context):
    settle(context, BERN)
    lifecycle.suspend(context, BERN)
    with context.connected(BERN) as connection, connection.begin():
        assert connection.scalar(select(Document.owner)) == BERN


def test_notes(context):
    settle(context, BERN)
    for note in ('Zürich\'s "best" \\ % :name', "", "\x00\ud800"):
        lifecycle.annotate(context, BERN, note)
        assert context.customer(BERN).mark.note == note


def test_schemas_are_adopted(context, execute):
    execute(f'CREATE SCHEMA "{BERN}"; CREATE SCHEMA "{BASEL}"')
    execute(f"COMMENT ON SCHEMA \"{BERN}\" IS 'the capital'")
    lifecycle.adopt(context, BERN, BASEL)
    assert names_of(context) == [BASEL, BERN]
    assert context.customer(BERN).mark.note == "the capital"
    before = context.customer(BERN).mark
    lifecycle.adopt(context, BERN)
    assert context.customer(BERN).mark == before


def test_only_what_could_be_a_customer_is_adopted(context):
    for name in ("public", "extensions", "pg_toast", "trash:00"):
        with pytest.raises(InvalidSchemaName):
            lifecycle.adopt(context, name)
    with pytest.raises(SchemaNotFound):
        lifecycle.adopt(context, "towns-nowhere")


def test_whose_rights_do_not_suffice_is_told_what_an_administrator_has_to_run(
    context, execute, common_dsn, new_manager
):
    settle(context, BERN)
    execute("DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN")
    url = make_url(common_dsn).set(username="weak")
    weak = FleetContext(new_manager(url, Base))
    for change in (
        lambda: lifecycle.suspend(weak, BERN),
        lambda: lifecycle.rename(weak, BERN, BASEL),
        lambda: lifecycle.drop(weak, BERN),
    ):
        with pytest.raises(PermissionDenied, match='ALTER SCHEMA "towns-bern" OWNER TO "weak"'):
            change()
    assert owners(context, BERN) == [BERN]


def test_a_table_that_others_own_is_no_obstacle(context, execute, common_dsn, new_manager):
    settle(context, BERN)
    execute("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN")
    execute(f'ALTER SCHEMA "{BERN}" OWNER TO poor')
    database = execute("SELECT current_database()")[0][0]
    execute(f"GRANT CREATE ON DATABASE {database} TO poor")
    poor = FleetContext(new_manager(make_url(common_dsn).set(username="poor"), Base))
    lifecycle.rename(poor, BERN, BASEL)
    assert lifecycle.drop(poor, BASEL, purge=True)
    assert context.manager.list_schemas() == []
    execute(f"REVOKE ALL ON DATABASE {database} FROM poor; DROP ROLE poor")


def test_every_server_and_driver(dsn, new_manager):
    context = FleetContext(new_manager(dsn, Base, transaction_manager=None))
    settle(context, BERN)
    lifecycle.rename(context, BERN, BASEL)
    lifecycle.suspend(context, BASEL)
    lifecycle.resume(context, BASEL)
    lifecycle.drop(context, BASEL)
    assert lifecycle.undo(context, BASEL, to=BERN) == BERN
    assert owners(context, BERN) == [BERN]
    lifecycle.drop(context, BERN)
    assert lifecycle.purge(context).is_ok
    assert lifecycle.fill_spares(context, 1) == 1
    settle(context, BERN)
    assert lifecycle.spares(context) == []
    assert context.manager.engine.pool.checkedout() == 0
