"""Subscribers and hooks that are coroutine functions, and attempts inside of blocks."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from onegov_orm import ConfigurationError
from tests.asynchronous import BERN, in_loop, new_async_manager
from tests.models import Base, Document


class Conflict(Exception):
    """What a transaction fails with that may succeed when it is tried again."""

    sqlstate = "40001"


@in_loop
async def test_a_new_schema_is_filled_by_a_coroutine(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)

    @mgr.on_schema_init.connect
    async def fill(schema, connection):
        assert isinstance(connection, AsyncConnection)
        await connection.execute(sa.insert(Document).values(owner=schema))

    async with mgr.schema(BERN) as session:
        assert (await session.scalars(sa.select(Document.owner))).all() == [BERN]


@in_loop
async def test_a_coroutine_that_fails_leaves_no_schema(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)

    @mgr.on_schema_init.connect
    async def fail(schema, connection):
        await connection.execute(sa.text("SELECT 1 / 0"))

    with pytest.raises(sa.exc.DBAPIError, match="division by zero"):
        await mgr.set_current_schema(BERN)
    assert not await mgr.is_schema_found_on_database(BERN)


@in_loop
async def test_a_subscriber_of_deletes_can_use_the_session(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)
    left = []

    @mgr.on_delete.connect
    async def count(schema, session, obj):
        assert isinstance(session, AsyncSession)
        left.append(await session.scalar(sa.select(sa.func.count()).select_from(Document)))

    async with mgr.schema(BERN) as session:
        session.add_all([Document(owner=BERN), Document(owner=BERN)])
        await session.flush()
        await session.delete((await session.scalars(sa.select(Document).limit(1))).one())
    assert left == [1]


@in_loop
async def test_an_error_tracker_may_be_a_coroutine_function(async_plain_dsn, caplog):
    mgr = new_async_manager(async_plain_dsn, Base)
    tracked = []

    @mgr.on_hook_error.connect
    async def track(schema, error, hook):
        tracked.append((schema, str(error)))

    with caplog.at_level(logging.ERROR):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner=BERN))

            @mgr.after_commit
            async def fail():
                raise ValueError("the index is down")

    assert tracked == [(BERN, "the index is down")]


@in_loop
async def test_hooks_of_an_attempt_that_failed_inside_a_block_are_dropped(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)
    ran = []

    async with mgr.schema(BERN):
        mgr.after_commit(lambda: ran.append("of the block"))
        async for attempt in mgr.attempts():
            async with attempt as session:
                session.add(Document(owner=BERN))
                mgr.after_commit(lambda number=attempt.number: ran.append(number))
                mgr.after_abort(lambda number=attempt.number: ran.append(-number))
                if attempt.number == 1:
                    raise Conflict
    assert ran == [-1, "of the block", 2]


def test_hooks_of_an_attempt_that_failed_are_dropped_in_plain_blocks(plain):
    ran = []
    with plain.schema(BERN):
        for attempt in plain.attempts():
            with attempt:
                plain.after_commit(lambda number=attempt.number: ran.append(number))
                if attempt.number == 1:
                    raise Conflict
    assert ran == [2]


@in_loop
async def test_a_deferrable_reader_does_not_wait_for_its_own_writer(async_plain_dsn):
    mgr = new_async_manager(async_plain_dsn, Base)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN))
        await session.flush()
        with pytest.raises(ConfigurationError, match="waits until those who write are done"):
            await mgr.reader(deferrable=True).execute(sa.select(Document))
        async with mgr.schema(BERN, deferrable=True) as reader:
            with pytest.raises(ConfigurationError, match='session of schema "towns-bern"'):
                await reader.execute(sa.select(Document))
    async with mgr.schema(BERN, deferrable=True) as reader:
        assert len((await reader.scalars(sa.select(Document))).all()) == 1


def test_a_deferrable_reader_does_not_wait_for_a_joined_writer(mgr):
    with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN))
        session.flush()
        with pytest.raises(ConfigurationError, match="waits until those who write are done"):
            mgr.reader(deferrable=True).execute(sa.select(Document))
