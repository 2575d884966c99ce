"""Schemas made ahead: given to one customer each, whole, and only if they are up to date."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, select, text

from onegov_orm import ConfigurationError
from onegov_orm._ddl import run_script
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.marks import State
from tests.models import Base, Document
from tests.provisioning import add_table, base_of, has_schema, relations, statements_of

CUSTOMERS = 20


@pytest.fixture
def mgr(common_dsn, new_manager):
    return new_manager(common_dsn, Base, transaction_manager=None, pool_config={"pool_size": 20})


@pytest.fixture
def context(mgr):
    return FleetContext(mgr)


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


def test_a_new_customer_gets_a_spare(context, mgr, execute):
    assert lifecycle.fill_spares(context, 2) == 2
    before = lifecycle.spares(context)
    assert [each.is_current for each in before] == [True, True]
    heard = []

    @mgr.on_schema_init.connect
    def hear(schema, connection):
        heard.append(schema)

    with statements_of(mgr) as sent:
        lifecycle.create(context, "towns-bern")
    assert not [sql for sql in sent if "CREATE TABLE" in sql]
    assert heard == ["towns-bern"]
    [left] = lifecycle.spares(context)
    assert left in before
    mark = context.customer("towns-bern").mark
    assert (mark.state, mark.made_of) == (State.ACTIVE, "")
    lifecycle.create(context, "towns-basel")
    lifecycle.create(context, "towns-chur")
    names = ["towns-bern", "towns-basel", "towns-chur"]
    assert len({tuple(relations(execute, f'"{name}"')) for name in names}) == 1


def test_only_what_is_missing_is_made(context):
    assert [lifecycle.fill_spares(context, count) for count in (2, 2, 3, 1, 0)] == [2, 0, 1, 0, 0]
    assert lifecycle.keep_spares(context) == 3
    with pytest.raises(ConfigurationError, match="-1 spares"):
        lifecycle.fill_spares(context, -1)


def test_spares_are_no_customers(context, mgr):
    lifecycle.fill_spares(context, 1)
    assert context.customers() == []
    assert mgr.list_schemas() == []
    assert lifecycle.trash(context) == []
    [spare] = lifecycle.spares(context)
    assert spare.as_dict() == {
        "schema": str(spare.schema),
        "created": spare.created.isoformat(),
        "is_current": True,
    }


def test_spares_are_seeded(context, mgr):
    @mgr.seed
    def welcome(connection):
        connection.execute(sa.insert(Document).values(owner="everybody"))

    lifecycle.fill_spares(context, 1)
    lifecycle.create(context, "towns-bern")
    with mgr.schema("towns-bern") as session:
        assert session.scalars(select(Document.owner)).all() == ["everybody"]


def outdate_models(mgr):
    mgr.bases.append(base_of(("later",)))


def outdate_seeds(mgr):
    mgr.seed(lambda connection: None)


def outdate_extensions(mgr):
    mgr.required_extensions.discard("unaccent")


@pytest.mark.parametrize("outdate", [outdate_models, outdate_seeds, outdate_extensions])
def test_a_stale_spare_is_given_to_nobody(context, mgr, execute, outdate):
    lifecycle.fill_spares(context, 1)
    [spare] = lifecycle.spares(context)
    outdate(mgr)
    assert [each.is_current for each in lifecycle.spares(context)] == [False]
    lifecycle.create(context, "towns-bern")
    assert ("later" in relations(execute, '"towns-bern"')) == (outdate is outdate_models)
    assert [each.schema for each in lifecycle.spares(context)] == [spare.schema]
    assert lifecycle.fill_spares(context, 1) == 1
    [current] = lifecycle.spares(context)
    assert current.is_current
    assert not has_schema(execute, f'"{spare.schema}"')
    assert lifecycle.trash(context) == []


def test_a_table_that_comes_later_makes_a_spare_stale(common_dsn, new_manager):
    base = base_of(("t",))
    context = FleetContext(new_manager(common_dsn, base))
    lifecycle.fill_spares(context, 1)
    add_table(base.metadata, "u", Column("a", sa.Text))
    assert [each.is_current for each in lifecycle.spares(context)] == [False]


def test_a_spare_that_is_being_taken_is_not_discarded(context, mgr):
    lifecycle.fill_spares(context, 1)
    outdate_seeds(mgr)
    [spare] = lifecycle.spares(context)
    key = f"SELECT pg_advisory_xact_lock(hashtextextended('{spare.schema}', 0))"
    with context.connected() as connection, connection.begin():
        connection.execute(text(key))
        assert lifecycle.keep_spares(context) == 0
    assert [each.schema for each in lifecycle.spares(context)] == [spare.schema]


def test_a_customer_that_fails_leaves_its_spare(context, mgr, execute):
    lifecycle.fill_spares(context, 1)

    @mgr.on_schema_init.connect
    def fail(schema, connection):
        raise RuntimeError("no")

    before = lifecycle.spares(context)
    with pytest.raises(RuntimeError):
        lifecycle.create(context, "towns-bern")
    assert not has_schema(execute, '"towns-bern"')
    assert lifecycle.spares(context) == before


def test_each_of_many_gets_one_of_its_own(context, mgr, execute):
    lifecycle.fill_spares(context, CUSTOMERS // 2)
    before = {
        oid for (oid,) in execute("SELECT oid FROM pg_namespace WHERE nspname LIKE 'spare:%'")
    }
    barrier = Barrier(CUSTOMERS + 1)

    def work(number):
        barrier.wait(20)
        with mgr.schema(f"towns-{number}") as session:
            session.add(Document(owner=f"towns-{number}"))

    def fill():
        barrier.wait(20)
        return lifecycle.fill_spares(context, 3)

    with ThreadPoolExecutor(CUSTOMERS + 1) as executor:
        filling = executor.submit(fill)
        list(executor.map(work, range(CUSTOMERS)))
        filling.result()
    oids = execute("SELECT oid FROM pg_namespace WHERE nspname LIKE 'towns-%'")
    assert len(set(oids)) == CUSTOMERS
    taken = before & {oid for (oid,) in oids}
    assert len(taken) == CUSTOMERS // 2
    shapes = set()
    for number in range(CUSTOMERS):
        with mgr.schema(f"towns-{number}") as session:
            assert session.scalars(select(Document.owner)).all() == [f"towns-{number}"]
        shapes.add(tuple(relations(execute, f'"towns-{number}"')))
    assert len(shapes) == 1
    assert len(context.customers()) == CUSTOMERS


def test_the_same_name_takes_one_spare(context, mgr):
    lifecycle.fill_spares(context, 3)
    barrier = Barrier(8)

    def work(_):
        barrier.wait(20)
        mgr.ensure_schema_exists("towns-bern")

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(8)))
    assert len(lifecycle.spares(context)) == 2


def test_two_who_fill_make_no_more_than_wanted(context, common_dsn, new_manager):
    other = FleetContext(new_manager(common_dsn, Base))
    with ThreadPoolExecutor(2) as executor:
        made = list(executor.map(lifecycle.fill_spares, (context, other), (3, 3)))
    assert sorted(made) == [0, 3]
    assert len(lifecycle.spares(context)) == 3


def test_half_a_spare_is_never_seen(context, mgr, execute):
    @mgr.seed
    def fail(connection):
        run_script(connection, ["SELECT 1 / 0"])

    with pytest.raises(sa.exc.DataError):
        lifecycle.fill_spares(context, 1)
    assert lifecycle.spares(context) == []
    assert execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'spare:%'") == [(0,)]
