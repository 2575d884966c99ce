"""Behind a PgBouncer, in transaction and in session mode: what works, with every driver."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from typing import Any

import psycopg2
import pytest
from sqlalchemy import ARRAY, Enum, bindparam, delete, exc, func, insert, select, text, update
from sqlalchemy.util import await_only

from onegov_orm import ReadOnlySession, SearchPathMoved
from tests.clients import CLIENTS, Client, new_client
from tests.conftest import Databases, skip_or_fail
from tests.models import Color, Document, Page
from tests.poolers import PgBouncer, find_pgbouncer

SERVERS = 2
OWNERS = text("SELECT owner FROM documents ORDER BY id")

#: Pool mode, server, and driver.
KINDS = [
    *[("transaction", "newest", name) for name in CLIENTS],
    *[("transaction", "older", name) for name in ("psycopg2", "asyncpg")],
    *[("session", "newest", name) for name in ("psycopg2", "psycopg", "asyncpg")],
]

#: No server before 18 reports its search path.
if_path_is_reported = pytest.mark.parametrize(
    "client", [kind for kind in KINDS if kind[1] == "newest"], ids="-".join, indirect=True
)


class Place:
    """A database behind a pooler, which has two of the server's connections for it."""

    def __init__(self, pooler: PgBouncer, databases: Databases, mode: str) -> None:
        self.pooler = pooler
        self.mode = mode
        self.database = databases.create()
        self.direct = databases.server.dsn(self.database, tcp=False)

    def client(self, name: str, **options: Any) -> Client:
        driver = name.removesuffix("_async").removesuffix("-pipeline")
        dsn = self.pooler.dsn(self.database, driver=driver)
        return new_client(name, dsn, pooler="external", **options)

    def pollute(self, *statements: str) -> None:
        """Have another application leave its traces on all of the server's connections."""
        with ExitStack() as stack:
            for _ in range(SERVERS):
                other = psycopg2.connect(self.pooler.dsn(self.database))
                stack.enter_context(closing(other))
                with other.cursor() as cursor:
                    for statement in statements:
                        cursor.execute(statement)
                # all at once, so that each has another one of the connections
                stack.callback(other.commit)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the server, without the pooler."""
        with closing(psycopg2.connect(self.direct)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], Place]]:
    """Poolers, each made when it is first asked for."""
    if find_pgbouncer() is None:
        skip_or_fail("no PgBouncer on this machine: apt-get install pgbouncer")
    with ExitStack() as stack:

        @cache
        def find(mode: str, server: str) -> Place:
            databases: Databases = request.getfixturevalue(server)
            pooler = PgBouncer(databases.server, pool_mode=mode, default_pool_size=SERVERS)
            place = Place(stack.enter_context(pooler), databases, mode)
            stack.callback(databases.drop, place.database)
            return place

        yield find


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def client(
    request: pytest.FixtureRequest, places: Callable[[str, str], Place]
) -> Iterator[Client]:
    """Each driver, behind poolers of each kind."""
    mode, server, name = request.param
    client = places(mode, server).client(name)
    yield client
    client.close()


@pytest.fixture
def place(
    client: Client, request: pytest.FixtureRequest, places: Callable[[str, str], Place]
) -> Place:
    """Where the driver is."""
    mode, server, _name = request.node.callspec.params["client"]
    return places(mode, server)


@pytest.fixture
def towns(client: Client) -> tuple[str, str]:
    """Two customers, each with a document that tells its owner."""
    names = f"towns-{client.name}-1", f"towns-{client.name}-2"

    def begin_anew(session: Any) -> None:
        session.execute(text("DELETE FROM documents"))
        session.execute(text(f"INSERT INTO documents (owner) VALUES ('{session.info['schema']}')"))

    for name in names:
        client.run(name, begin_anew)
    return names


def owners(session: Any) -> list[str]:
    return list(session.scalars(OWNERS))


def driver_cursor(session: Any) -> Any:
    return session.connection().connection.cursor()


# -- the core


def test_a_customer_is_made(place, client, new_name):
    name = new_name()
    client.run(name, lambda session: session.add(Document(owner=name, color=Color.RED)))
    assert place.ask(f'SELECT owner FROM "{name}".documents') == [(name,)]


def test_statements_run_in_the_schema_of_their_session(client, towns):
    for _ in range(3):
        for name in towns:
            assert client.run(name, owners) == [name]


def test_two_sessions_stand_side_by_side(client, towns):
    bern, basel = towns

    def work(session):
        assert owners(session) == [bern]
        if not client.is_async:
            assert client.run(basel, owners) == [basel]
        assert owners(session) == [bern]

    client.run(bern, work)


def test_a_connection_without_schema_sees_no_customer(client, towns):
    assert client.connect(lambda it: it.scalar(text("SELECT current_schema()"))) == "pg_catalog"


def test_an_abort_leaves_nothing(place, client, towns):
    def work(session):
        session.add(Document(owner="lost"))
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.run(towns[0], work)
    assert client.run(towns[0], owners) == [towns[0]]


def test_the_schema_survives_savepoints(client, towns):
    def work(session):
        with session.begin_nested():
            session.add(Document(owner="kept"))
        nested = session.begin_nested()
        session.add(Document(owner="lost"))
        session.flush()
        nested.rollback()
        return owners(session)

    assert client.run(towns[0], work) == [towns[0], "kept"]


def test_a_failure_in_a_savepoint_is_left_behind(client, towns):
    def work(session):
        for _ in range(3):
            with pytest.raises(exc.DBAPIError), session.begin_nested():
                session.execute(text("SELECT 1 / 0"))
            assert owners(session) == [towns[0]]

    client.run(towns[0], work)


def test_many_rows_in_one_call(client, towns):
    statement = text("INSERT INTO documents (owner) VALUES (:owner)")
    client.run(towns[0], lambda it: it.execute(statement, [{"owner": "many"}] * 30))
    assert client.run(towns[0], owners) == [towns[0], *["many"] * 30]


def test_changes_in_bulk(client, towns):
    def work(session):
        rows = [{"owner": f"bulk {number}"} for number in range(5)]
        made = session.scalars(insert(Document).returning(Document.id), rows).all()
        session.execute(update(Document).where(Document.id.in_(made)).values(title="new"))
        gone = delete(Document).where(Document.owner == "bulk 0").returning(Document.title)
        assert session.scalars(gone).all() == ["new"]
        session.bulk_save_objects([Document(owner="saved")])

    client.run(towns[0], work)
    assert client.run(towns[0], lambda it: len(owners(it))) == 6


def test_copy(client, towns):
    def work(session):
        # With asyncpg, SQLAlchemy begins the transaction at the first statement of its own.
        owners(session)
        if client.driver == "psycopg2":
            file = io.StringIO("copied\n")
            driver_cursor(session).copy_expert("COPY documents (owner) FROM STDIN", file)
            return
        connection = session.connection().connection.driver_connection
        if client.driver == "asyncpg":
            records = [("copied",)]
            await_only(
                connection.copy_records_to_table("documents", records=records, columns=["owner"])
            )
        elif client.is_async:
            await_only(copy_with_psycopg(connection))
        else:
            with connection.cursor().copy("COPY documents (owner) FROM STDIN") as copy:
                copy.write("copied\n")

    async def copy_with_psycopg(connection):
        async with connection.cursor().copy("COPY documents (owner) FROM STDIN") as copy:
            await copy.write("copied\n")

    client.run(towns[0], work)
    assert client.run(towns[0], owners) == [towns[0], "copied"]
    assert client.run(towns[1], owners) == [towns[1]]


def test_rows_are_streamed_within_a_transaction(client, towns):
    def work(session):
        session.execute(insert(Document), [{"owner": "streamed"}] * 9)
        found = []
        for document in session.scalars(select(Document).execution_options(yield_per=2)):
            found.append(document.owner)
            if len(found) == 4:
                assert len(owners(session)) == 10
        return found

    assert client.run(towns[0], work) == [towns[0], *["streamed"] * 9]


def test_commit_in_two_phases(place, client, towns):
    def work(connection):
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO documents (owner) VALUES ('prepared')"))
        transaction.prepare()
        transaction.commit()
        with connection.begin_twophase():
            return connection.scalars(OWNERS).all()

    assert client.connect(work, schema=towns[0]) == [towns[0], "prepared"]
    assert place.ask("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []


def test_changes_are_announced(client, towns, listen):
    listener = listen(client.manager)
    client.run(towns[0], lambda session: session.add(Document(owner="heard")))
    assert [(kind, schema) for kind, schema, _ in listener.told] == [("insert", towns[0])]
    assert listener.net() == [("insert", "heard")]


def test_objects_know_relations(client, towns):
    pages = [Page(text="one"), Page(text="two")]
    client.run(towns[0], lambda it: it.add(Document(owner="book", pages=pages)))
    query = select(Page.text).join(Document).where(Document.owner == "book").order_by(Page.id)
    assert client.run(towns[0], lambda it: it.scalars(query).all()) == ["one", "two"]


def test_readers_read(client, towns):
    assert client.run(towns[0], owners, readonly=True) == [towns[0]]
    assert client.run(towns[0], owners, readonly=True, deferrable=True) == [towns[0]]


def test_readers_write_nothing(client, towns):
    def work(session):
        with pytest.raises(ReadOnlySession):
            session.execute(text("INSERT INTO documents (owner) VALUES ('written')"))
        session.rollback()
        with pytest.raises(ReadOnlySession):
            session.execute(text("SET TRANSACTION READ WRITE"))
        session.rollback()
        session.add(Document(owner="flushed"))
        with pytest.raises(ReadOnlySession):
            session.flush()
        session.expunge_all()

    client.run(towns[0], work, readonly=True)
    assert client.run(towns[0], owners) == [towns[0]]


def test_a_reader_leaves_no_connection_read_only(client, towns):
    client.run(towns[0], owners, readonly=True)
    for _ in range(4):
        client.run(towns[1], lambda session: session.add(Document(owner="written")))


def test_what_failed_for_a_while_is_tried_again(place, client, towns):
    tries = []

    def work(session):
        document = session.scalars(select(Document)).one()
        tries.append(document)
        if len(tries) == 1:
            place.ask(f"UPDATE \"{towns[0]}\".documents SET title = 'quick'")
        document.content = {"tries": len(tries)}
        session.flush()

    client.attempt(towns[0], work)
    found = client.run(
        towns[0], lambda it: it.execute(select(Document.title, Document.content)).all()
    )
    assert found == [("quick", {"tries": 2})]


def test_a_statement_is_used_again_and_again(place, client, towns):
    """Far more often than after which the drivers prepare it on the server."""

    def work(session):
        for number in range(12):
            session.execute(insert(Document).values(owner=name, color=Color.GREEN))
            assert set(owners(session)) == {name}
            query = select(Document).where(Document.id > number, Document.color == Color.GREEN)
            assert {found.owner for found in session.scalars(query)} <= {name}

    for _ in range(3):
        for name in towns:
            client.run(name, work)


def test_types_of_each_customer(client, towns):
    def write(session):
        tags = {"owner": name}
        session.add(Document(owner=name, color=Color.RED, tags=tags, content={"a": [1, None]}))

    def read(session):
        query = select(Document).where(Document.color == Color.RED)
        for found in session.scalars(query).all():
            assert (found.tags, found.content) == ({"owner": name}, {"a": [1, None]})
            assert found.owner == name
        colors = bindparam("colors", [Color.RED], ARRAY(Enum(Color, name="color")))
        return session.scalar(select(func.count()).where(Document.color == func.any(colors)))

    for times in range(1, 4):
        for name in towns:
            client.run(name, write)
            assert client.run(name, read) == times


# -- what others do to the server's connections


def test_the_path_of_others_is_not_ours(place, client, towns):
    bern, basel = towns
    place.pollute(f'SET search_path TO "{basel}"')
    assert client.run(bern, owners) == [bern]
    client.run(bern, lambda session: session.add(Document(owner=bern)))
    assert place.ask(f'SELECT owner FROM "{basel}".documents') == [(basel,)]
    if place.mode == "session":
        return
    place.pollute(f'SET search_path TO "{bern}", pg_catalog, extensions')
    for name in (bern, basel, bern):
        assert set(client.run(name, owners)) == {name}
    assert client.connect(lambda it: it.scalar(text("SELECT current_schema()"))) == "pg_catalog"


def test_temporary_tables_of_others_hide_nothing(place, client, towns):
    place.pollute("CREATE TEMP TABLE documents AS SELECT 1 AS id, 'stolen' AS owner")
    assert client.run(towns[0], owners) == [towns[0]]


def test_time_limit_for_clients_that_went_away(client, towns):
    question = text("SHOW idle_in_transaction_session_timeout")
    assert client.run(towns[0], lambda session: session.scalar(question)) == "1h"


def make_secret(place: Place, owner: str, target: str) -> None:
    """Make a function of the customer's that moves the path for good, and tells nobody."""
    place.ask(
        f'CREATE OR REPLACE FUNCTION "{owner}".secret(is_local bool) RETURNS int '
        "LANGUAGE plpgsql AS $$ BEGIN "
        f"PERFORM set_config('search_path', '\"{target}\"', is_local); RETURN 1; END $$"
    )


@if_path_is_reported
@pytest.mark.parametrize("is_local", [True, False])
def test_a_function_moves_the_path_in_secret(place, client, towns, is_local):
    bern, basel = towns
    make_secret(place, bern, basel)

    def work(session):
        found = owners(session) if is_local else [bern]
        for _ in range(2):
            session.scalar(text("SELECT secret(:is_local)"), {"is_local": is_local})
            session.execute(text(f"INSERT INTO documents (owner) VALUES ('{bern}')"))
        return found + owners(session)

    for _ in range(3):
        assert set(client.run(bern, work)) == {bern}
        assert client.run(basel, owners) == [basel]


@if_path_is_reported
def test_a_path_moved_to_where_others_left_it(place, client, towns):
    """The server reports no change then: it says what it said last, to somebody else."""
    bern, basel = towns
    make_secret(place, bern, basel)

    def work(session):
        session.scalar(text("SELECT secret(false)"))
        return owners(session)

    for path in (f'"{basel}"', f'"{bern}", pg_catalog, extensions'):
        place.pollute(f"SET search_path TO {path}")
        assert client.run(bern, work) == [bern]


@if_path_is_reported
def test_strict_managers_refuse_moved_paths(place, client, towns):
    make_secret(place, *towns)

    def work(session):
        owners(session)
        session.scalar(text("SELECT secret(true)"))
        return owners(session)

    strict = place.client(client.name, strict=True)
    try:
        with pytest.raises(SearchPathMoved):
            strict.run(towns[0], work)
        place.pollute(f'SET search_path TO "{towns[0]}", pg_catalog, extensions')
        assert strict.run(towns[0], owners) == [towns[0]]
    finally:
        strict.close()


# -- poolers and servers that go away


def test_killed_server_connections_are_replaced(place, client, towns):
    place.pooler.kill_servers(place.database)
    assert client.run(towns[0], owners) == [towns[0]]


def test_a_server_connection_is_killed_in_a_transaction(place, client, towns):
    def work(session):
        session.add(Document(owner="half"))
        session.flush()
        place.pooler.kill_servers(place.database)
        owners(session)

    with pytest.raises(exc.DBAPIError):
        client.run(towns[0], work)
    assert client.run(towns[0], owners) == [towns[0]]


def test_all_clients_are_killed(place, client, towns):
    def work(session):
        session.add(Document(owner="half"))
        session.flush()
        place.pooler.kill(place.database)
        owners(session)

    with pytest.raises(exc.DBAPIError):
        client.run(towns[0], work)
    assert client.run(towns[0], owners) == [towns[0]]


def test_the_pooler_is_restarted(place, client, towns):
    def work(session):
        session.add(Document(owner="half"))
        session.flush()
        place.pooler.stop()
        owners(session)

    try:
        with pytest.raises(exc.DBAPIError):
            client.run(towns[0], work)
        with pytest.raises((exc.DBAPIError, OSError)):
            client.run(towns[0], owners)
    finally:
        place.pooler.start()
    assert client.run(towns[0], owners) == [towns[0]]
    assert client.manager._holders.list() == []
