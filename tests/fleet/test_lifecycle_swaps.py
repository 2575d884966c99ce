"""Names that change hands while sessions work: no row ever lands at another customer's.

Each schema has a row that tells who it really is, whatever it is called. A transaction that has
read that row writes rows that carry it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import pytest
from sqlalchemy import exc, select, text

from onegov_orm import InvalidSchemaName, OrmError, SchemaBusy, SchemaExists, SchemaNotFound
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from tests.clients import CLIENTS, driver_of, new_client
from tests.models import Base, Color, Document, Item, Page

NAMES = ["towns-a", "towns-b", "towns-c"]
SECONDS = float(os.environ.get("ONEGOV_ORM_SWAP_SECONDS", "1.5"))
SEED = int(os.environ.get("ONEGOV_ORM_SWAP_SEED", "0")) or random.randrange(10**6)
OWNERS = """
SELECT owner FROM documents UNION SELECT text FROM pages UNION SELECT name FROM items
"""
ONE = {"pool_config": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}}

#: There was no such schema, table or type just then, or a plan was made for another one.
EXCUSED = frozenset({"3F000", "42P01", "42704", "40001", "40P01", "0A000"})
#: A statement was prepared with types of the schema that had the name before.
OF_OTHERS = frozenset({"42804", "42846", "42883"})


@pytest.fixture
def fleet(plain_dsn, new_manager):
    """Another process, as it were: it renames."""
    fleet = FleetContext(new_manager(plain_dsn, Base, transaction_manager=None))
    for name in NAMES[:2]:
        lifecycle.create(fleet, name)
        with fleet.manager.schema(name) as session:
            session.add(Document(owner=name, title="identity", color=Color.RED))
    return fleet


@pytest.fixture(params=CLIENTS)
def client(request, newest, fleet):
    name = request.param
    dsn = newest.server.dsn(fleet.engine.url.database, driver=driver_of(name), tcp=False)
    client = new_client(name, dsn, **ONE)
    yield client
    client.close()


def swap(fleet):
    lifecycle.rename(fleet, NAMES[0], NAMES[2])
    lifecycle.rename(fleet, NAMES[1], NAMES[0])
    lifecycle.rename(fleet, NAMES[2], NAMES[1])


def identity(session):
    return session.scalars(select(Document.owner).where(Document.title == "identity")).one()


def write(session):
    """Write a row that tells where it belongs to."""
    owner = identity(session)
    session.add(Document(owner=owner, color=Color.GREEN, pages=[Page(text=owner)]))
    session.flush()
    return owner


def try_to(client, schema, work, tries=3):
    """Do something in a transaction of its own, again after what may happen once."""
    for left in reversed(range(tries)):
        try:
            return client.run(schema, work, create=False)
        except exc.DBAPIError as error:
            if left == 0 or sqlstate(error) not in EXCUSED | OF_OTHERS:
                raise
    return None


def sqlstate(error):
    original = getattr(error, "orig", None)
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def test_between_transactions_a_session_is_at_the_new_customer(client, fleet):
    for _ in range(8):
        # Often enough that the driver prepares its statements.
        assert client.run(NAMES[0], write) == NAMES[0]
    swap(fleet)
    for _ in range(3):
        assert try_to(client, NAMES[0], write) == NAMES[1]
        assert try_to(client, NAMES[1], write) == NAMES[0]
    swap(fleet)
    assert try_to(client, NAMES[0], write) == NAMES[0]
    strangers = text("SELECT count(DISTINCT owner) FROM documents JOIN pages ON text = owner")
    for name in NAMES[:2]:
        assert client.run(name, lambda session: session.scalar(strangers)) == 1


def test_parameters_of_an_enum_are_those_of_the_new_customer(client, fleet):
    def reds(session):
        return session.scalars(select(Document.owner).where(Document.color == Color.RED)).all()

    for _ in range(8):
        assert client.run(NAMES[0], reds) == [NAMES[0]]
    swap(fleet)
    assert try_to(client, NAMES[0], reds) == [NAMES[1]]


def test_in_a_transaction_the_customer_stays(client, fleet, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.LOCK_TIMEOUT_SECONDS", 0.2)

    def work(session):
        owner = identity(session)
        with pytest.raises(SchemaBusy):
            swap(fleet)
        session.add(Document(owner=owner))
        session.flush()
        return session.scalar(text("SELECT count(*) FROM documents WHERE owner = 'towns-a'"))

    assert client.run(NAMES[0], work) == 2


def test_objects_that_stay_in_a_session_are_read_anew(fleet):
    fleet.manager.set_current_schema(NAMES[0])
    session = fleet.manager.session()
    document = session.scalars(select(Document)).one()
    assert document.owner == NAMES[0]
    session.commit()
    swap(fleet)
    assert document.owner == NAMES[1]
    session.rollback()


def test_a_name_that_is_made_anew_is_another_customer(client, fleet):
    for _ in range(6):
        assert client.run(NAMES[0], write) == NAMES[0]
    lifecycle.drop(fleet, NAMES[0])
    lifecycle.create(fleet, NAMES[0])
    count = select(Document.owner)
    assert try_to(client, NAMES[0], lambda session: session.scalars(count).all()) == []


def workers(manager, stop, failures, done):
    """Write rows in schemas whose names change hands."""
    chance = random.Random(f"{SEED}-{threading.get_ident()}")
    while not stop.is_set():
        name = chance.choice(NAMES)
        try:
            with manager.schema(name, create=False) as session:
                owner = identity(session)
                # Time for the name to go to somebody else, before another table is written to.
                time.sleep(chance.choice((0, 0.01, 0.05)))
                session.add(Item(name=owner))
                session.flush()
                session.add(Document(owner=owner, pages=[Page(text=owner)]))
            done["written"] += 1
        except (SchemaNotFound, exc.NoResultFound):
            done["nowhere"] += 1
        except exc.DBAPIError as error:
            if sqlstate(error) not in EXCUSED:
                failures.append(error)
                return
            done[sqlstate(error)] += 1
        except Exception as error:
            failures.append(error)
            return


def rename_at_random(fleet, stop, failures, done):
    """Rename, drop and bring back, as long as it is time."""
    chance = random.Random(SEED)
    while not stop.is_set():
        old, new = chance.sample(NAMES, 2)
        try:
            if chance.random() < 0.8:
                # Each takes the name of another at once, if it can.
                [free] = set(NAMES) - {each.schema for each in fleet.customers()}
                lifecycle.rename(fleet, old, free)
                lifecycle.rename(fleet, new, old)
            else:
                lifecycle.undo(fleet, lifecycle.drop(fleet, old), to=new)
            done["renamed"] += 1
        except (SchemaNotFound, SchemaExists, SchemaBusy, ValueError):
            done["refused"] += 1
            for trashed in lifecycle.trash(fleet):
                free = set(NAMES) - {each.schema for each in fleet.customers()}
                lifecycle.undo(fleet, trashed.schema, to=min(free))
        except (OrmError, exc.DBAPIError, InvalidSchemaName) as error:
            failures.append(error)
            return


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_storm_of_names(newest, fleet, new_manager, driver, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._moving.LOCK_TIMEOUT_SECONDS", 0.5)
    dsn = newest.server.dsn(fleet.engine.url.database, driver=driver, tcp=False)
    pool = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 30}
    manager = new_manager(dsn, Base, transaction_manager=None, pool_config=pool)
    stop, failures, done = threading.Event(), [], Counter()
    threads = [
        threading.Thread(target=workers, args=(manager, stop, failures, done)) for _ in range(4)
    ]
    threads.append(threading.Thread(target=rename_at_random, args=(fleet, stop, failures, done)))
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures, (SEED, failures)
    assert done["renamed"] > 5, (SEED, done)
    assert done["written"] > 5, (SEED, done)
    customers = fleet.customers()
    assert len(customers) == 2
    found = set()
    for customer in customers:
        with fleet.manager.schema(customer.schema) as session:
            [owner] = session.scalars(text(OWNERS)).all()
            found.add(owner)
    assert found == set(NAMES[:2])
