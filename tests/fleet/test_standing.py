"""Customers whose sessions are refused: by every driver, wherever they are known already."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import insert, select, text

from onegov_orm import AsyncSessionManager, SchemaSuspended, _standing
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from tests.asynchronous import in_loop, new_async_manager
from tests.clients import CLIENTS, driver_of, new_client
from tests.models import Base, Document
from tests.replication import wait_until

BERN, BASEL = "towns-bern", "towns-basel"
ONE = {"pool_config": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}}


@pytest.fixture(scope="module", params=["newest", "older"])
def place(request):
    databases = request.getfixturevalue(request.param)
    name = databases.create()
    yield databases, name
    databases.drop(name)


@pytest.fixture
def fleet(place, new_manager):
    """Another process, as it were: it suspends and resumes."""
    databases, name = place
    context = FleetContext(new_manager(databases.server.dsn(name, tcp=False), Base))
    for schema in (BERN, BASEL):
        context.manager.ensure_schema_exists(schema)
    yield context
    lifecycle.resume(context, BERN)


@pytest.fixture(params=CLIENTS)
def client(request, place, fleet):
    databases, name = place
    dsn = databases.server.dsn(name, driver=driver_of(request.param), tcp=False)
    client = new_client(request.param, dsn, **ONE)
    for schema in (BERN, BASEL):
        client.run(schema, owners)
    yield client
    client.close()


@pytest.fixture
def at_once(monkeypatch):
    """Have the server asked in each transaction."""
    monkeypatch.setattr(_standing, "ADMISSION_SECONDS", 0.0)


def owners(session):
    return list(session.scalars(select(Document.owner)))


def write(session):
    session.execute(insert(Document), {"owner": "nobody"})


def test_a_suspended_customer_is_refused_where_it_is_known(client, fleet, at_once):
    lifecycle.suspend(fleet, BERN)
    for work in (owners, write, lambda session: session.execute(text("SELECT 1")), owners):
        with pytest.raises(SchemaSuspended, match='"towns-bern" is suspended') as caught:
            client.run(BERN, work)
        assert caught.value.schema == BERN
        # The only connection is fit for others.
        assert client.run(BASEL, owners) == []
    with pytest.raises(SchemaSuspended):
        client.run(BERN, owners, readonly=True)
    lifecycle.resume(fleet, BERN)
    assert client.run(BERN, owners) == []


def test_who_stays_on_a_connection_is_refused_soon(client, fleet, monkeypatch):
    monkeypatch.setattr(_standing, "ADMISSION_SECONDS", 0.5)
    client.run(BERN, owners)
    lifecycle.suspend(fleet, BERN)
    started = time.monotonic()
    with pytest.raises(SchemaSuspended):
        while time.monotonic() < started + 10:
            client.run(BERN, owners)
    assert time.monotonic() - started < 2


def test_who_comes_back_to_a_connection_is_refused_at_once(client, fleet):
    lifecycle.suspend(fleet, BERN)
    client.run(BASEL, owners)
    with pytest.raises(SchemaSuspended):
        client.run(BERN, owners)


def test_a_transaction_that_has_begun_goes_on(client, fleet, at_once):
    def work(session):
        session.execute(insert(Document), {"owner": BERN})
        lifecycle.suspend(fleet, BERN)
        session.execute(insert(Document), {"owner": BERN})

    client.run(BERN, work)
    lifecycle.resume(fleet, BERN)
    client.run(BERN, lambda session: session.execute(text("DELETE FROM documents")))


def test_statements_without_transaction_are_refused(client, fleet, at_once):
    lifecycle.suspend(fleet, BERN)
    options = {"isolation_level": "AUTOCOMMIT"}
    for _ in range(2):
        with pytest.raises(SchemaSuspended):
            client.connect(
                lambda connection: connection.execute(text("SELECT 1")), schema=BERN, **options
            )
    lifecycle.resume(fleet, BERN)
    found = client.connect(
        lambda connection: connection.scalar(text("SELECT current_schema()::text")),
        schema=BERN,
        **options,
    )
    assert found == BERN


def test_a_new_process_is_refused(place, fleet, new_manager):
    databases, name = place
    lifecycle.suspend(fleet, BERN)
    mgr = new_manager(databases.server.dsn(name, tcp=False), Base)
    for create in (True, False):
        with pytest.raises(SchemaSuspended):
            mgr.set_current_schema(BERN, create=create)
        assert mgr.current_schema is None


def test_an_error_with_the_same_words_is_another_error(place, fleet, new_manager):
    databases, name = place
    mgr = new_manager(databases.server.dsn(name, tcp=False), Base, transaction_manager=None)
    with pytest.raises(Exception, match="is_suspended"), mgr.schema(BERN) as session:
        session.execute(text("SELECT 'is_suspended'::int"))


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_behind_a_pooler(newest, new_pooler, plain_dsn, new_manager, driver):
    fleet = FleetContext(new_manager(plain_dsn, Base))
    lifecycle.create(fleet, BERN)
    database = fleet.engine.url.database
    dsn = new_pooler(newest, default_pool_size=1).dsn(database, driver=driver)
    mgr = new_manager(dsn, Base, pooler="external", transaction_manager=None)
    with mgr.schema(BERN) as session:
        assert owners(session) == []
    lifecycle.suspend(fleet, BERN)
    for _ in range(2):
        with pytest.raises(SchemaSuspended), mgr.schema(BERN) as session:
            owners(session)
    lifecycle.resume(fleet, BERN)
    with mgr.schema(BERN) as session:
        assert owners(session) == []


def test_replicas_refuse_too(replicated, new_manager, at_once):
    primary = replicated.primary
    name = primary.create()
    mgr = new_manager(
        primary.server.dsn(name, tcp=False),
        Base,
        transaction_manager=None,
        replicas=[standby.dsn(name) for standby in replicated.standbys],
    )
    fleet = FleetContext(mgr)
    lifecycle.create(fleet, BERN)

    def is_standby():
        replicated.wait_until_caught_up()
        mgr.check_replicas()
        with mgr.schema(BERN, readonly=True) as session:
            return session.scalar(text("SELECT pg_is_in_recovery()"))

    wait_until(is_standby, "no standby is read from")
    lifecycle.suspend(fleet, BERN)
    # The manager's own check is out of the way, so that the replicas are asked.
    mgr.provisioner.found_schemas.add(BERN)
    for _ in range(4):
        with pytest.raises(SchemaSuspended):
            is_standby()
    mgr.dispose()
    primary.drop(name)


@in_loop
async def test_asynchronous_hooks_hear_of_it(async_plain_dsn, new_manager):
    url = async_plain_dsn.replace("+asyncpg", "").replace("+psycopg", "")
    fleet = FleetContext(new_manager(url, Base))
    mgr = new_async_manager(async_plain_dsn, Base)
    assert isinstance(mgr, AsyncSessionManager)
    await mgr.ensure_schema_exists(BERN)
    lifecycle.suspend(fleet, BERN)
    mgr.provisioner.forget(BERN)
    for create in (True, False):
        with pytest.raises(SchemaSuspended):
            await mgr.set_current_schema(BERN, create=create)
