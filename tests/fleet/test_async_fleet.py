"""The fleet of an asynchronous manager: the same methods, awaited."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from sqlalchemy import text

from onegov_orm import SchemaExists, SchemaNotFound, SchemaSuspended
from onegov_orm.fleet import AsyncFleet, Fleet, Outcome, RunOptions, State
from tests.asynchronous import BASEL, BERN, in_loop, owners, settle
from tests.models import Base

SLEEP = text("SELECT pg_sleep(30)")


@pytest.fixture
def new_fleet(async_plain_dsn, new_async_manager):
    """Make a fleet with the towns of Bern and Basel."""

    async def make():
        return AsyncFleet(await settle(new_async_manager(async_plain_dsn, Base)))

    return make


def public(cls):
    return {name for name in vars(cls) if not name.startswith("_")}


def test_both_fleets_have_the_same_methods():
    assert public(Fleet) - {"context", "migrations", "upgrades", "keep_spares"} <= public(
        AsyncFleet
    )


def test_the_methods_keep_their_signatures_and_texts():
    for name in public(Fleet) & public(AsyncFleet):
        own, other = getattr(Fleet, name), getattr(AsyncFleet, name)
        if callable(own):
            assert inspect.iscoroutinefunction(other)
            assert inspect.signature(own) == inspect.signature(other)
            assert own.__doc__ == other.__doc__


@in_loop
async def test_the_customers_are_told(new_fleet):
    fleet = await new_fleet()
    assert [each.schema for each in await fleet.customers()] == [BASEL, BERN]
    overview = await fleet.overview()
    assert [each.schema for each in overview] == [BASEL, BERN]
    assert all(each.size_bytes and each.tables for each in overview)
    await fleet.dispose()


@in_loop
async def test_a_customer_is_created_by_the_manager_itself(new_fleet):
    fleet = await new_fleet()
    made = []

    @fleet.manager.on_schema_init.connect
    async def fill(schema, connection):
        made.append(schema)
        await connection.execute(text("INSERT INTO documents (owner) VALUES ('first')"))

    await fleet.create("towns-chur")
    assert made == ["towns-chur"]
    assert await owners(fleet.manager, "towns-chur") == ["first"]
    with pytest.raises(SchemaExists):
        await fleet.create("towns-chur")
    await fleet.dispose()


@in_loop
async def test_both_managers_know_of_a_new_name(new_fleet):
    fleet = await new_fleet()
    await fleet.rename(BERN, "towns-thun")
    assert await owners(fleet.manager, "towns-thun") == [BERN]
    with pytest.raises(SchemaNotFound):
        async with fleet.manager.schema(BERN, create=False):
            raise AssertionError("it is called otherwise by now")
    await fleet.dispose()


@in_loop
async def test_a_suspended_customer_is_refused(new_fleet):
    fleet = await new_fleet()
    await fleet.suspend(BERN, note="unpaid")
    (bern,) = await fleet.customers(states=[State.SUSPENDED])
    assert (bern.schema, bern.mark.note) == (BERN, "unpaid")
    with pytest.raises(SchemaSuspended):
        await owners(fleet.manager, BERN)
    await fleet.resume(BERN)
    assert await owners(fleet.manager, BERN) == [BERN]
    await fleet.dispose()


@in_loop
async def test_the_loop_goes_on_while_a_step_runs(new_fleet):
    fleet = await new_fleet()
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    def rest(connection, schema):
        connection.execute(text("SELECT pg_sleep(0.1)"))
        return connection.execute(text("SELECT current_schema()")).scalar_one()

    turning = asyncio.create_task(turn())
    report = await fleet.run(rest, options=RunOptions(workers=2))
    turning.cancel()
    assert [result.detail for result in report.results] == [BASEL, BERN]
    assert turns > 10
    await fleet.dispose()


@in_loop
async def test_a_cancellation_ends_what_is_in_flight(new_fleet):
    fleet = await new_fleet()
    results = []

    def rest(connection, schema):
        connection.execute(text("INSERT INTO documents (owner) VALUES ('late')"))
        connection.execute(SLEEP)

    async def run():
        await fleet.run(rest, on_result=lambda result, *_: results.append(result))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(), timeout=0.5)
    assert {result.outcome for result in results} == {Outcome.FAILED}
    assert await owners(fleet.manager, BERN) == [BERN]
    await fleet.dispose()
