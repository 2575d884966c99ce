"""Seeds: what each new schema is filled with, in the transaction that makes it."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, text

from tests.asynchronous import in_loop, new_async_manager
from tests.models import Base, Document
from tests.provisioning import has_schema

BERN, BASEL = "towns-bern", "towns-basel"


@pytest.fixture
def mgr(common_dsn, new_manager):
    return new_manager(common_dsn, Base, transaction_manager=None)


def owners(mgr, schema):
    with mgr.schema(schema) as session:
        return session.scalars(select(Document.owner).order_by(Document.id)).all()


def seed(owner):
    def fill(connection):
        connection.execute(insert(Document).values(owner=owner))

    return fill


def test_a_new_schema_is_filled_once_and_in_order(mgr):
    assert mgr.seed(first := seed("first")) is first
    mgr.seed(seed("second"))
    for name in (BERN, BASEL):
        assert owners(mgr, name) == ["first", "second"]
    mgr.provisioner.forget(BERN)
    assert owners(mgr, BERN) == ["first", "second"]


def test_seeds_come_before_the_subscribers(mgr):
    mgr.seed(seed("seed"))

    @mgr.on_schema_init.connect
    def hear(schema, connection):
        found = connection.scalars(text("SELECT owner FROM documents")).all()
        connection.execute(insert(Document).values(owner=f"{schema} after {found}"))

    assert owners(mgr, BERN) == ["seed", "towns-bern after ['seed']"]


def test_a_seed_that_fails_leaves_nothing(mgr, common_dsn, outside):
    mgr.seed(seed("first"))

    @mgr.seed
    def fail(connection):
        raise RuntimeError("no seed")

    with pytest.raises(RuntimeError, match="no seed"):
        mgr.ensure_schema_exists(BERN)
    assert not has_schema(outside(common_dsn), f'"{BERN}"')
    mgr.provisioner.seeds.remove(fail)
    assert owners(mgr, BERN) == ["first"]


def test_an_empty_schema_that_waits_for_its_tables_is_filled(mgr):
    mgr.seed(seed("first"))
    mgr.create_schema(BERN)
    assert owners(mgr, BERN) == ["first"]


def test_a_schema_that_lacks_a_table_is_not_filled_again(mgr, common_dsn, outside):
    mgr.seed(seed("first"))
    assert owners(mgr, BERN) == ["first"]
    outside(common_dsn)(f'DROP TABLE "{BERN}".items')
    mgr.provisioner.forget(BERN)
    assert owners(mgr, BERN) == ["first"]


@in_loop
async def test_seeds_of_an_asynchronous_manager(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)

    @mgr.seed
    async def awaited(connection):
        await connection.execute(insert(Document).values(owner="awaited"))

    mgr.seed(seed("called"))
    async with mgr.schema(BERN) as session:
        found = await session.scalars(select(Document.owner).order_by(Document.id))
        assert found.all() == ["awaited", "called"]
