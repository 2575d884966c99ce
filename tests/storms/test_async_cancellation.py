"""What the storms of tasks found, each as small as can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from tests.asynchronous import ONE_CONNECTION, in_loop, out, until
from tests.models import Base
from tests.storms.async_operations import driver_of
from tests.storms.customers import Execute, Watch

SCHEMA = "towns-bern"


@pytest.mark.parametrize("turns", range(7))
@in_loop
async def test_cancelled_replacement_of_dead_connection_keeps_the_place_in_the_pool(
    turns: int,
    async_plain_dsn: str,
    new_async_manager: Callable[..., Any],
    outside: Callable[[str], Execute],
) -> None:
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION)

    async def visit() -> None:
        async with mgr.schema(SCHEMA) as session:
            await session.execute(text("SELECT 1"))

    await visit()
    Watch(outside(async_plain_dsn)).kill()
    task = asyncio.create_task(visit())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await until(lambda: out(mgr) == 0)
    await visit()


@pytest.mark.parametrize("async_driver", ["asyncpg"], indirect=True)
@in_loop
async def test_first_rollback_to_a_savepoint_of_a_connection_works_after_an_error(
    async_plain_dsn: str, new_async_manager: Callable[..., Any]
) -> None:
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION)
    async with mgr.schema(SCHEMA) as session:
        with suppress(ZeroDivisionError):
            async with session.begin_nested():
                driver = await driver_of(session)
                with suppress(Exception):
                    await driver.execute("SELECT 1 / 0")
                raise ZeroDivisionError
        assert await session.scalar(text("SELECT current_schema()::text")) == SCHEMA
