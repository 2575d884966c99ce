"""New customers' schemas under asyncio: all of it, once, or nothing."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, event, text
from sqlalchemy.exc import DBAPIError

from onegov_orm.errors import ExtensionUnavailable, SchemaExists, SchemaNotFound
from tests.asynchronous import BASEL, BERN, in_loop, out, owners, run, settle, statements_of
from tests.models import Base, Color, Document
from tests.provisioning import base_of, has_schema, relations


@in_loop
async def test_everything_is_made_on_first_use(async_dsn, new_async_manager, outside):
    mgr = new_async_manager(async_dsn, Base)
    async with mgr.schema("a") as session:
        session.add(Document(owner="a", color=Color.RED, tags={"x": "y"}, content={"z": 1}))
    async with mgr.schema("a") as session:
        found = (await session.scalars(sa.select(Document))).one()
        assert (found.color, found.tags, found.content) == (Color.RED, {"x": "y"}, {"z": 1})
    assert {"documents", "pages", "ix_documents_owner"} <= set(relations(outside(async_dsn)))
    assert mgr.created_schemas == {"a"}


@in_loop
async def test_extensions_are_made_in_an_empty_database(
    databases, async_driver, new_async_manager
):
    name = databases.create("template0")
    mgr = new_async_manager(databases.server.dsn(name, driver=async_driver, tcp=False), Base)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN, tags={"a": "b"}))
    async with mgr.schema(BERN) as session:
        assert (await session.scalars(sa.select(Document.tags))).one() == {"a": "b"}
    assert mgr.created_extensions == {"btree_gist", "hstore", "unaccent"}
    await mgr.dispose()
    databases.drop(name)


@in_loop
async def test_types_of_extensions_on_connections_opened_before(
    databases, async_driver, new_async_manager
):
    name = databases.create("template0")
    dsn = databases.server.dsn(name, driver=async_driver, tcp=False)
    mgr = new_async_manager(dsn, Base, pool_config={"pool_size": 1, "max_overflow": 0})
    mgr.required_extensions.clear()
    async with mgr.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    mgr.required_extensions.update(("btree_gist", "hstore", "unaccent"))
    await settle(mgr, BERN)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="later", tags={"a": None}))
    async with mgr.schema(BERN) as session:
        query = sa.select(Document.tags).where(Document.tags["a"].is_(None))
        assert (await session.scalars(query.where(Document.owner == "later"))).one() == {"a": None}
    await mgr.dispose()
    databases.drop(name)


@in_loop
async def test_an_extension_that_the_server_lacks(async_dsn, new_async_manager, outside):
    mgr = new_async_manager(async_dsn, Base)
    mgr.required_extensions.add("made_up")
    with pytest.raises(ExtensionUnavailable, match="made_up"):
        await mgr.set_current_schema("a")
    assert not has_schema(outside(async_dsn))
    assert (out(mgr), mgr.current_schema) == (0, None)


@in_loop
async def test_twenty_tasks_at_once_make_it_once(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base)
    heard = []
    mgr.on_schema_init.connect(lambda schema, connection: heard.append(schema), weak=False)

    async def work(number):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner=f"{number:02}"))

    await asyncio.gather(*(work(number) for number in range(20)))
    assert heard == [BERN]
    assert sorted(await owners(mgr, BERN)) == [f"{number:02}" for number in range(20)]
    assert out(mgr) == 0


@in_loop
async def test_managers_of_several_processes_make_it_once(async_plain_dsn, new_async_manager):
    managers = [new_async_manager(async_plain_dsn, Base) for _ in range(4)]
    heard = []
    for mgr in managers:
        mgr.on_schema_init.connect(lambda schema, connection: heard.append(schema), weak=False)
    await asyncio.gather(*(mgr.set_current_schema(BERN) for mgr in managers for _ in range(3)))
    assert heard == [BERN]


@in_loop
async def test_different_schemas_at_once(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    names = [f"towns-{number}" for number in range(8)]
    await asyncio.gather(*(mgr.ensure_schema_exists(name) for name in names))
    assert await mgr.list_schemas("towns") == names
    assert mgr.created_schemas == set(names)


@in_loop
async def test_the_signal_has_a_connection_in_the_schema(async_dsn, new_async_manager):
    mgr, found = new_async_manager(async_dsn, Base), []

    @mgr.on_schema_init.connect
    def fill(schema, connection):
        connection.execute(sa.insert(Document), [{"owner": schema}, {"owner": "second"}])
        found.append(connection.scalar(text("SELECT current_schema()::text")))

    await mgr.set_current_schema("a")
    assert found == ["a"]
    assert await owners(mgr, "a") == ["a", "second"]


@in_loop
async def test_a_coroutine_function_may_fill_a_new_schema(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)

    @mgr.on_schema_init.connect
    async def fill(schema, connection):
        await asyncio.sleep(0)
        await connection.execute(sa.insert(Document), [{"owner": schema}])

    await mgr.set_current_schema("a")
    assert await owners(mgr, "a") == ["a"]


@in_loop
async def test_a_failing_subscriber_leaves_nothing(async_dsn, new_async_manager, outside):
    mgr = new_async_manager(async_dsn, Base)

    def fail(schema, connection):
        connection.execute(text("CREATE TABLE half (x int)"))
        raise ZeroDivisionError

    mgr.on_schema_init.connect(fail)
    for enter in (mgr.set_current_schema("a"), mgr.schema("a").__aenter__()):
        with pytest.raises(ZeroDivisionError):
            await enter
    assert not has_schema(outside(async_dsn))
    assert (mgr.current_schema, mgr.created_schemas, out(mgr)) == (None, set(), 0)
    mgr.on_schema_init.disconnect(fail)
    assert await owners(mgr, "a") == []


@in_loop
async def test_a_failing_table_leaves_nothing(async_plain_dsn, new_async_manager, outside):
    base = base_of(("t",), ("u", Column("x", sa.Integer, server_default=text("no_such()"))))
    mgr = new_async_manager(async_plain_dsn, base)
    with pytest.raises(DBAPIError, match="no_such"):
        await mgr.set_current_schema("a")
    assert not has_schema(outside(async_plain_dsn))
    assert out(mgr) == 0


@in_loop
async def test_shared_tables_are_made_once(async_dsn, new_async_manager):
    base = base_of(("t", Column("x", sa.ForeignKey("shared.common.id"))))
    common = sa.Table("common", base.metadata, Column("id", sa.Integer, primary_key=True))
    base.metadata.remove(common)
    common.to_metadata(base.metadata, schema="shared")
    mgr = new_async_manager(async_dsn, base)
    await asyncio.gather(*(mgr.ensure_schema_exists(name) for name in ("a", "b", "c")))
    await run(mgr, "a", "INSERT INTO shared.common VALUES (7)")
    await run(mgr, "b", "INSERT INTO t (x) VALUES (7)")
    assert await mgr.list_schemas() == ["a", "b", "c"]


@in_loop
async def test_listeners_of_live_ddl(async_plain_dsn, new_async_manager, outside):
    base = base_of(("t", Column("size", sa.Enum("small", "large", name="size"))))
    seen = []

    def after_create(target, connection, **options):
        seen.append(connection.scalar(text("SELECT current_schema()::text")))

    event.listen(base.metadata, "after_create", after_create)
    mgr = new_async_manager(async_plain_dsn, base)
    await mgr.set_current_schema("a")
    assert seen == ["a"]
    assert "t" in relations(outside(async_plain_dsn))


@in_loop
async def test_a_table_that_came_later_is_added(async_plain_dsn, new_async_manager, outside):
    await new_async_manager(async_plain_dsn, base_of(("t",))).set_current_schema("a")
    await new_async_manager(async_plain_dsn, base_of(("t",), ("u",))).set_current_schema("a")
    assert {"t", "u"} <= set(relations(outside(async_plain_dsn)))


@in_loop
async def test_schemas_can_be_asked_for_and_made_empty(
    async_plain_dsn, new_async_manager, outside
):
    mgr = new_async_manager(async_plain_dsn, Base)
    await mgr.create_schema("a")
    with pytest.raises(SchemaExists):
        await mgr.create_schema("a")
    await mgr.create_schema_if_not_exists("a")
    await mgr.create_schema_if_not_exists("b")
    found = [await mgr.is_schema_found_on_database(name) for name in ("a", "b", "c")]
    assert (found, relations(outside(async_plain_dsn))) == ([True, True, False], [])
    assert await mgr.list_schemas() == ["a", "b"]
    assert out(mgr) == 0


@in_loop
async def test_extensions_alone(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    mgr.required_extensions.add("citext")
    await mgr.create_required_extensions()
    assert "citext" in mgr.created_extensions


@in_loop
async def test_a_dropped_schema_is_refused_by_the_server(async_dsn, new_async_manager, outside):
    mgr = await settle(new_async_manager(async_dsn, Base))
    assert await owners(mgr, BASEL) == [BASEL]
    outside(async_dsn)(f'DROP SCHEMA "{BERN}" CASCADE')
    with pytest.raises(SchemaNotFound):
        await owners(mgr, BERN)
    assert await owners(mgr, BASEL) == [BASEL]


@in_loop
async def test_a_second_use_asks_nothing(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base), BERN)
    with statements_of(mgr) as sent:
        await mgr.ensure_schema_exists(BERN)
        async with mgr.schema(BERN):
            pass
    assert sent == []
