"""What is announced under asyncio: changes, net change sets, and whose objects they are."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.orm import make_transient

from onegov_orm.errors import BulkChangeNotSupported, CrossSchemaError
from tests.asynchronous import (
    BASEL,
    BERN,
    in_loop,
    out,
    owners,
    settle,
    statements_of,
)
from tests.models import Base, Color, Document, Item, Page, Person, SpecialItem


@pytest.fixture
def listen_to(listen):
    """Listen to a manager with a document in each of two schemas."""

    async def enter(mgr, *names):
        await settle(mgr)
        return listen(mgr, *names)

    return enter


# -- flushes


@in_loop
async def test_changes_are_announced_after_each_flush(
    async_plain_dsn, new_async_manager, listen_to
):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr)
    async with mgr.schema(BERN) as session:
        document = Document(owner="ada")
        session.add(document)
        await session.flush()
        document.owner = "bob"
        await session.flush()
        await session.delete(document)
        await session.flush()
        assert listener.told == [(kind, BERN, document) for kind in ("insert", "update", "delete")]
    assert listener.commits == []


@in_loop
async def test_the_sender_is_the_schema_of_the_session(
    async_plain_dsn, new_async_manager, listen_to
):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_insert", "on_commit")
    async with mgr.schema(BERN) as bern, mgr.schema(BASEL) as basel:
        bern.add(Document(owner="of bern"))
        await bern.flush()
        basel.add(Document(owner="of basel"))
    assert [(schema, obj.owner) for _kind, schema, obj in listener.told] == [
        (BERN, "of bern"),
        (BASEL, "of basel"),
    ]
    assert [schema for schema, _changes in listener.commits] == [BASEL, BERN]


@in_loop
async def test_connect_via_hears_one_schema(async_plain_dsn, new_async_manager):
    mgr, heard = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_insert.connect_via(BASEL)
    def note(schema, obj):
        heard.append((schema, obj.owner))

    await asyncio.gather(*(_add(mgr, schema) for schema in (BERN, BASEL, BERN)))
    assert heard == [(BASEL, BASEL)]


async def _add(mgr, schema):
    async with mgr.schema(schema) as session:
        session.add(Document(owner=schema))


@in_loop
async def test_on_delete_gets_the_session(async_plain_dsn, new_async_manager):
    mgr, sessions = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_delete.connect
    def note(schema, session, obj):
        sessions.append((session.info["schema"], obj.owner))

    async with mgr.schema(BERN) as session:
        await session.delete((await session.scalars(sa.select(Document))).one())
    assert sessions == [(BERN, BERN)]


@in_loop
async def test_coroutine_functions_hear_changes_before_the_flush_returns(
    async_plain_dsn, new_async_manager
):
    mgr, heard = await settle(new_async_manager(async_plain_dsn, Base)), []

    async def note(schema, obj, **others):
        await asyncio.sleep(0)
        heard.append((schema, obj.owner))

    for signal in (mgr.on_insert, mgr.on_update, mgr.on_delete):
        signal.connect(note)
    async with mgr.schema(BERN) as session:
        document = Document(owner="ada")
        session.add(document)
        await session.flush()
        assert heard == [(BERN, "ada")]
        document.owner = "bob"
        await session.flush()
        await session.delete(document)
    assert heard == [(BERN, "ada"), (BERN, "bob"), (BERN, "bob")]


@in_loop
async def test_a_coroutine_subscriber_may_use_the_manager(async_plain_dsn, new_async_manager):
    mgr, found = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_insert.connect_via(BERN)
    async def look(schema, obj):
        async with mgr.schema(BASEL) as session:
            found.extend(await session.scalars(sa.select(Document.owner)))
        found.append(mgr.current_schema)

    async with mgr.schema(BERN) as session:
        session.add(Document(owner="ada"))
        await session.flush()
        assert (mgr.current_schema, found) == (BERN, [BASEL, BERN])


@in_loop
async def test_an_error_of_a_coroutine_subscriber_aborts(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    @mgr.on_insert.connect
    async def fail(schema, obj):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _add(mgr, BERN)
    assert (await owners(mgr, BERN), out(mgr)) == ([BERN], 0)


@in_loop
async def test_a_change_of_a_subscriber_is_written_by_the_commit(
    async_plain_dsn, new_async_manager
):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    @mgr.on_insert.connect
    def complete(schema, obj):
        obj.title = f"by {obj.owner}"

    await _add(mgr, BERN)
    async with mgr.schema(BERN) as session:
        query = sa.select(Document.title).order_by(Document.id)
        assert (await session.scalars(query)).all() == [None, f"by {BERN}"]


@in_loop
async def test_cascades_and_joined_tables(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr)
    async with mgr.schema(BERN) as session:
        document = Document(owner="ada", pages=[Page(text="one"), Page(text="two")])
        session.add_all([document, Person(name="eve", email="e@x")])
    assert sorted(listener.kinds()) == ["insert"] * 4
    async with mgr.schema(BERN) as session:
        query = sa.select(Document).where(Document.owner == "ada")
        await session.delete((await session.scalars(query)).one())
    assert listener.kinds() == ["delete"] * 3


@in_loop
async def test_nobody_listening_costs_no_statement(async_plain_dsn, new_async_manager, listen):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def work():
        with statements_of(mgr) as sent:
            async with mgr.schema(BERN) as session:
                document = Document(owner="x")
                session.add(document)
                await session.flush()
                document.owner = "y"
                await session.flush()
                await session.delete(document)
        return len(sent)

    deaf = await work()
    listener = listen(mgr)
    assert (await work(), listener.kinds()) == (deaf, ["insert", "update", "delete"])


# -- bulk changes


@in_loop
async def test_bulk_updates_and_deletes_are_announced(
    async_plain_dsn, new_async_manager, listen_to
):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_update", "on_delete", "on_commit")
    async with mgr.schema(BERN) as session:
        result = await session.execute(
            sa.update(Document).where(Document.owner == BERN).values(color=Color.GREEN)
        )
        assert result.rowcount == 1
        await session.execute(sa.delete(Document).where(Document.color == Color.GREEN))
    assert [(kind, schema, obj.owner) for kind, schema, obj in listener.told] == [
        ("update", BERN, BERN),
        ("delete", BERN, BERN),
    ]
    assert listener.net() == [("delete", BERN)]
    assert await owners(mgr, BASEL) == [BASEL]


@in_loop
async def test_bulk_inserts_are_announced(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_insert", "on_commit")
    async with mgr.schema(BERN) as session:
        await session.execute(sa.insert(Document), [{"owner": "a"}, {"owner": "b"}])
        await session.run_sync(
            lambda sync: sync.bulk_insert_mappings(Document, [{"owner": "c"}, {"owner": "d"}])
        )
        await session.run_sync(lambda sync: sync.bulk_save_objects([Document(owner="e")]))
    assert [obj.owner for _kind, _schema, obj in listener.told] == list("abcde")
    assert sorted(listener.net()) == [("insert", owner) for owner in "abcde"]


@in_loop
async def test_a_bulk_insert_of_many_batches(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_insert")
    rows = [{"owner": f"{number:04}", "color": Color.RED} for number in range(2500)]
    async with mgr.schema(BERN) as session:
        await session.execute(sa.insert(Document), rows)
    assert [obj.owner for _kind, _schema, obj in listener.told] == [row["owner"] for row in rows]
    assert len({obj.id for _kind, _schema, obj in listener.told}) == 2500


@in_loop
async def test_a_custom_returning_is_kept(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_update")
    async with mgr.schema(BERN) as session:
        statement = sa.update(Document).values(title="new").returning(Document.owner)
        assert (await session.execute(statement)).all() == [(BERN,)]
    assert listener.kinds() == ["update"]


@in_loop
async def test_single_table_inheritance(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_update")
    async with mgr.schema(BERN) as session:
        session.add_all([Item(name="plain"), SpecialItem(name="special")])
        await session.flush()
        await session.execute(sa.update(SpecialItem).values(name="changed"))
    assert [type(obj) for _kind, _schema, obj in listener.told] == [SpecialItem]


@in_loop
async def test_what_can_not_be_announced_is_refused(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    await listen_to(mgr)
    statement = sa.update(Document).values(id=Document.id + 100)
    async with mgr.schema(BERN) as session:
        with pytest.raises(BulkChangeNotSupported, match="ignore_bulk_updates"):
            await session.execute(statement)
        with mgr.ignore_bulk_updates():
            await session.execute(statement)
    async with mgr.schema(BERN) as session:
        assert (await session.scalars(sa.select(Document.id))).all() == [101]


@in_loop
async def test_silence_ends_with_its_block(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="before"))
        async with mgr.disable_change_signals():
            session.add(Document(owner="inside"))
        session.add(Document(owner="after"))
    assert [obj.owner for _kind, _schema, obj in listener.told] == ["before", "after"]
    assert listener.net() == [("insert", "before"), ("insert", "after")]


# -- net change sets


@in_loop
async def test_a_commit_is_announced_once_with_the_net_changes(
    async_plain_dsn, new_async_manager, listen_to
):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_commit")
    async with mgr.schema(BERN) as session:
        gone, kept = Document(owner="gone"), Document(owner="kept")
        session.add_all([gone, kept])
        await session.flush()
        await session.delete(gone)
        kept.title = "new"
        await session.flush()
        assert listener.commits == []
    assert listener.net() == [("insert", "kept")]
    assert listener.commits[0][0] == BERN


@in_loop
async def test_nothing_is_announced_for_an_abort(async_plain_dsn, new_async_manager, listen_to):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_commit")
    with pytest.raises(ZeroDivisionError):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="ada"))
            await session.flush()
            raise ZeroDivisionError
    await mgr.set_current_schema(BERN)
    mgr.session().add(Document(owner="ada"))
    await mgr.session().flush()
    await mgr.session().rollback()
    assert (listener.commits, await owners(mgr, BERN)) == ([], [BERN])


@in_loop
async def test_what_a_savepoint_rolled_back_is_not_announced(
    async_plain_dsn, new_async_manager, listen_to
):
    mgr = new_async_manager(async_plain_dsn, Base)
    listener = await listen_to(mgr, "on_commit")
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="kept"))
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                session.add(Document(owner="lost"))
                await session.flush()
                raise ZeroDivisionError
        async with session.begin_nested():
            session.add(Document(owner="kept too"))
    assert listener.net() == [("insert", "kept"), ("insert", "kept too")]


@in_loop
async def test_a_session_outside_a_block_announces_each_commit(async_plain_dsn, new_async_manager):
    """The objects expire when the subscribers are through."""
    mgr, heard = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_commit.connect
    async def note(schema, changes):
        await asyncio.sleep(0)
        heard.append((schema, [change.obj.owner for change in changes]))

    await mgr.set_current_schema(BERN)
    for owner in ("a", "b"):
        mgr.session().add(Document(owner=owner))
        await mgr.session().commit()
    assert heard == [(BERN, ["a"]), (BERN, ["b"])]


@in_loop
async def test_coroutine_subscribers_of_commits_are_awaited(async_plain_dsn, new_async_manager):
    mgr, heard = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_commit.connect
    async def index(schema, changes):
        async with mgr.schema(schema) as session:
            count = await session.scalar(text("SELECT count(*) FROM documents"))
        heard.append((schema, [change.obj.owner for change in changes], count))

    @mgr.on_commit.connect
    def note(schema, changes):
        heard.append(len(changes))

    await _add(mgr, BERN)
    assert sorted(heard, key=str) == sorted([(BERN, [BERN], 2), 1], key=str)
    await mgr.set_current_schema(BASEL)
    mgr.session().add(Document(owner="plain"))
    await mgr.session().commit()
    assert (BASEL, ["plain"], 2) in heard


@in_loop
async def test_objects_can_be_read_after_the_commit(async_plain_dsn, new_async_manager):
    """Nothing has to be loaded again, which would need an await."""
    mgr, heard = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_commit.connect
    def note(schema, changes):
        heard.extend((change.obj.id, change.obj.owner, change.obj.title) for change in changes)

    async with mgr.schema(BERN) as session:
        document = Document(owner="ada", title="t")
        session.add(document)
    assert heard == [(document.id, "ada", "t")]


# -- objects know their customer


@in_loop
async def test_an_object_of_another_schema_is_refused(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    async with mgr.schema(BERN) as bern:
        document = (await bern.scalars(sa.select(Document))).one()
        async with mgr.schema(BASEL) as basel:
            with pytest.raises(CrossSchemaError):
                basel.add(document)
            with pytest.raises(CrossSchemaError):
                await basel.merge(document)
    assert await owners(mgr, BASEL) == [BASEL]


@in_loop
async def test_objects_of_a_closed_block_keep_their_customer(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    async with mgr.schema(BERN) as session:
        document = (await session.scalars(sa.select(Document))).one()
    with pytest.raises(CrossSchemaError):
        async with mgr.schema(BASEL) as session:
            session.add(document)
    async with mgr.schema(BERN) as session:
        session.add(document)
        document.title = "again"
    async with mgr.schema(BASEL) as session:
        make_transient(document)
        document.id = None
        session.add(document)
    assert await owners(mgr, BASEL) == [BASEL, BERN]


@in_loop
async def test_an_object_between_tasks_of_two_schemas(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def steal(document):
        async with mgr.schema(BASEL) as session:
            session.add(document)

    async with mgr.schema(BERN) as session:
        document = (await session.scalars(sa.select(Document))).one()
        with pytest.raises(CrossSchemaError):
            await asyncio.create_task(steal(document))
        assert document in session
