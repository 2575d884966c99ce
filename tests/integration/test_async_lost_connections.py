"""Connections that the server ends, statements that come too late, and libpq's parameters."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from onegov_orm import ConfigurationError, SessionManager
from tests.asynchronous import (
    BASEL,
    BERN,
    ONE_CONNECTION,
    in_loop,
    new_async_manager,
    out,
    owners,
    settle,
)
from tests.models import Base, Document


async def kill(mgr, pid):
    """End a backend, and wait until it is gone."""
    async with mgr.schema(BASEL) as session:
        await session.execute(sa.text(f"SELECT pg_terminate_backend({pid}, 10000)"))


async def begin(session):
    """Write something, and return the backend's number."""
    session.add(Document(owner=BERN))
    await session.flush()
    return await session.scalar(sa.text("SELECT pg_backend_pid()"))


@in_loop
async def test_a_backend_that_is_gone_between_two_statements(async_dsn):
    mgr = await settle(new_async_manager(async_dsn, Base))
    with pytest.raises(sa.exc.OperationalError) as caught:
        async with mgr.schema(BERN) as session:
            await kill(mgr, await begin(session))
            await session.execute(sa.text("SELECT 1"))
    assert caught.value.connection_invalidated
    assert await owners(mgr, BERN) == [BERN]
    assert out(mgr) == 0


@in_loop
async def test_a_backend_that_is_gone_during_a_statement(async_dsn):
    mgr = await settle(new_async_manager(async_dsn, Base))
    with pytest.raises(sa.exc.OperationalError):
        async with mgr.schema(BERN) as session:
            killing = asyncio.create_task(kill(mgr, await begin(session)))
            await session.execute(sa.text("SELECT pg_sleep(60)"))
    await killing
    assert await owners(mgr, BERN) == [BERN]


@in_loop
async def test_a_backend_that_is_gone_before_the_commit(async_dsn):
    mgr = await settle(new_async_manager(async_dsn, Base))
    announced = []
    mgr.on_commit.connect(lambda schema, changes: announced.append(schema), weak=False)
    with pytest.raises(sa.exc.OperationalError):
        async with mgr.schema(BERN) as session:
            await kill(mgr, await begin(session))
    assert await owners(mgr, BERN) == [BERN]
    assert announced == []


@in_loop
async def test_a_statement_that_was_kept_is_of_no_use_to_the_next_customer(plain_dsn):
    dsn = make_url(plain_dsn).set(drivername="postgresql+asyncpg")
    mgr = await settle(new_async_manager(dsn, Base, pool_config=ONE_CONNECTION))
    async with mgr.schema(BERN) as session:
        raw = await (await session.connection()).get_raw_connection()
        statement = await raw.driver_connection.prepare("SELECT owner FROM documents")
        assert [row["owner"] for row in await statement.fetch()] == [BERN]
    async with mgr.schema(BASEL) as session:
        assert await session.scalar(sa.text("SELECT owner FROM documents")) == BASEL
        with pytest.raises(Exception, match="given back to the pool"):
            await statement.fetch()


@in_loop
async def test_the_parameters_of_libpq(async_plain_dsn):
    url = make_url(async_plain_dsn)
    query = {"application_name": "towns", "connect_timeout": "5", "sslmode": "prefer"}
    mgr = new_async_manager(url.update_query_dict(query), Base)
    async with mgr.schema(BERN) as session:
        assert await session.scalar(sa.text("SHOW application_name")) == "towns"
        assert await session.scalar(sa.text("SELECT current_schema()::text")) == BERN


async def hook():
    """Do nothing."""


@in_loop
async def test_a_hook_that_was_called_instead_of_given(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)
    async with mgr.schema(BERN):
        with pytest.raises(ConfigurationError, match="give the function itself"):
            mgr.after_commit(hook())
        with pytest.raises(ConfigurationError, match="give the function itself"):
            mgr.after_abort(None)


def test_a_coroutine_function_as_a_hook_of_the_synchronous_manager(mgr: SessionManager):
    with pytest.raises(ConfigurationError, match="AsyncSessionManager"):
        mgr.after_commit(hook)
