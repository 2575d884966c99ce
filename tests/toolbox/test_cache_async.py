"""Cached properties of coroutine functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from onegov_orm import AsyncSessionManager, ConfigurationError
from onegov_orm.cache import OrmCache, memory_region, orm_cached, request_cached
from tests.asynchronous import in_loop
from tests.toolbox.caching import Base, User

NewManager = Callable[..., AsyncSessionManager]


class AsyncApp:
    """Counts how often its properties are made."""

    def __init__(self, mgr: AsyncSessionManager) -> None:
        self.mgr = mgr
        self.orm_cache = OrmCache(mgr, memory_region())
        self.made = 0

    @orm_cached("on-table-change:users")
    async def names(self) -> Sequence[str]:
        """The names of all users."""
        self.made += 1
        await asyncio.sleep(0.001)
        return (await self.mgr.session().scalars(select(User.name).order_by(User.name))).all()

    @request_cached
    async def users(self) -> Sequence[User]:
        """The users themselves."""
        return (await self.mgr.session().scalars(select(User))).all()

    @orm_cached("on-table-change:users")
    def mistaken(self) -> Sequence[str]:
        """Not to be awaited."""
        session: Any = self.mgr.session()
        return list(session.sync_session.scalars(select(User.name)))

    async def add(self, schema: str, name: str) -> None:
        """Add a user, and commit."""
        async with self.mgr.schema(schema) as session:
            session.add(User(name=name))

    async def read(self, schema: str) -> Sequence[str]:
        """Read the names in a block of its own."""
        async with self.mgr.schema(schema):
            return await self.names


@in_loop
async def test_a_coroutines_value_is_kept_until_a_commit_outdates_it(
    async_plain_dsn: str, new_async_manager: NewManager
) -> None:
    app = AsyncApp(new_async_manager(async_plain_dsn, Base))
    await app.add("towns-bern", "Ada")
    for _ in range(3):
        assert await app.read("towns-bern") == ["Ada"]
    assert app.made <= 2
    await app.add("towns-bern", "Grace")
    assert await app.read("towns-bern") == ["Ada", "Grace"]
    assert await app.read("towns-thun") == []


@in_loop
async def test_tasks_wait_for_the_one_that_makes_a_value(
    async_plain_dsn: str, new_async_manager: NewManager
) -> None:
    app = AsyncApp(new_async_manager(async_plain_dsn, Base))
    await app.add("towns-bern", "Ada")
    await app.read("towns-bern")
    await app.read("towns-bern")
    await app.add("towns-bern", "Grace")
    made = app.made
    found = await asyncio.gather(*(app.read("towns-bern") for _ in range(20)))
    assert found == [["Ada", "Grace"]] * 20
    assert app.made == made + 1


@in_loop
async def test_objects_are_kept_for_the_block(
    async_plain_dsn: str, new_async_manager: NewManager
) -> None:
    app = AsyncApp(new_async_manager(async_plain_dsn, Base))
    await app.add("towns-bern", "Ada")
    async with app.mgr.schema("towns-bern"):
        first = await app.users
        assert await app.users is first
    async with app.mgr.schema("towns-bern"):
        assert await app.users is not first


@in_loop
async def test_a_plain_function_is_told_to_be_a_coroutine_function(
    async_plain_dsn: str, new_async_manager: NewManager
) -> None:
    app = AsyncApp(new_async_manager(async_plain_dsn, Base))
    async with app.mgr.schema("towns-bern"):
        with pytest.raises(ConfigurationError, match="async def"):
            app.mistaken
