"""Managers of both kinds, used the same way, and texts that try to write through a reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import transaction
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from onegov_orm import AsyncSessionManager, SessionManager
from onegov_orm.errors import ReadOnlySession
from onegov_orm.replicas import ReplicaStatus
from tests.models import Base, Document
from tests.replication import Replicated, Standby, ask, wait_until

T = TypeVar("T")

BERN, BASEL = "towns-bern", "towns-basel"

#: It finds its table whatever became of the search path.
INSERT: Final = f"INSERT INTO \"{BERN}\".documents (owner) VALUES ('stranger')"

#: What the server, or the session before it, refuses at once.
WRITES: Final = (
    INSERT,
    "/* hello */ insert into documents (owner) values ('stranger')",
    "UPDATE documents SET title = 'written'",
    "DELETE FROM documents",
    f"WITH new AS ({INSERT} RETURNING id) SELECT id FROM new",
    "SELECT id FROM documents FOR UPDATE",
    "SELECT id FROM documents FOR NO KEY UPDATE",
    "SELECT nextval('documents_id_seq')",
    "SELECT setval('documents_id_seq', 1000)",
    "TRUNCATE documents CASCADE",
    "CREATE TABLE written ()",
    "CREATE TABLE written AS SELECT 1 AS one",
    "SELECT 1 AS one INTO written",
    "DROP TABLE pages",
    "ALTER TABLE documents ADD written text",
    "COMMENT ON TABLE documents IS 'written'",
    "GRANT SELECT ON documents TO PUBLIC",
    "COPY documents (owner) FROM PROGRAM 'echo stranger'",
    f"EXPLAIN (ANALYZE) {INSERT}",
    f"DO $$ BEGIN {INSERT}; END $$",
)

#: What would end the read-only transaction, or make one of it that writes; a text a line.
WAYS_OUT: Final = (
    ("SET TRANSACTION READ WRITE",),
    ("set transaction isolation level repeatable read, read\n\twrite",),
    ("SET/**/TRANSACTION/* x */READ/**/WRITE",),
    ("SET TRANSACTION READ -- why\nWRITE",),
    ("/* /* nested */ */ SET TRANSACTION READ WRITE",),
    ("SET LOCAL transaction_read_only = off",),
    ("SET SESSION transaction_read_only TO false",),
    ('SET "transaction_read_only" TO off',),
    ('SET U&"transaction\\005fread_only" TO off',),
    ('SET/**/U&"transaction\\005fread_only" TO off',),
    ("SET U&\"transaction!005fread_only\" UESCAPE '!' TO off",),
    ("RESET transaction_read_only",),
    ("RESET ALL",),
    ("DISCARD ALL",),
    ("SET default_transaction_read_only = off", "COMMIT"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "COMMIT"),
    ("BEGIN READ WRITE",),
    ("BEGIN/**/READ/**/WRITE",),
    ("START TRANSACTION READ WRITE",),
    ("SELECT set_config('transaction_read_only', 'off', true)",),
    ("SELECT set_config('transaction_' || 'read_only', 'off', false)",),
    ("SELECT set_config('default_' || 'transaction_read_only', 'off', false)", "COMMIT"),
    (f"DO $$ BEGIN SET TRANSACTION READ WRITE; {INSERT}; END $$",),
    (f"DO $$ BEGIN EXECUTE 'SET trans' || 'action_read_only = off'; {INSERT}; END $$",),
    (f"DO $$ BEGIN COMMIT; {INSERT}; END $$",),
    ("SELECT open_up()",),
    ("CALL get_out()",),
    (f"COMMIT; {INSERT}",),
    (f"commit;{INSERT};",),
    (f"COMMIT/**/;/**/{INSERT}",),
    (f"COMMIT -- ;\n; {INSERT}",),
    (f"COMMIT WORK AND NO CHAIN; {INSERT}",),
    (f"COMMIT AND CHAIN; SET TRANSACTION READ WRITE; {INSERT}; COMMIT",),
    (f"END; BEGIN; {INSERT}; COMMIT",),
    (f"ABORT; {INSERT}",),
    (f"ROLLBACK; {INSERT}",),
    (f"SELECT 1; ROLLBACK TRANSACTION ; {INSERT}",),
    (f";; COMMIT; {INSERT}",),
    (f"SELECT '--'; COMMIT; {INSERT}",),
    (f"SELECT '/*'; COMMIT; {INSERT}; SELECT '*/'",),
    (f"SELECT 1 /* ' */; COMMIT; {INSERT} /* ' */",),
    (f"SELECT 1 -- '\n; COMMIT; {INSERT} -- '",),
    (f"SELECT $$'$$; COMMIT; {INSERT}; SELECT $$'$$",),
    (f"SELECT $a$ $$ $a$; COMMIT; {INSERT}; SELECT $a$ $$ $a$",),
    (f"SELECT E'\\''; COMMIT; {INSERT}; SELECT ''",),
    (f"SELECT E'a'\n'\\''; COMMIT; {INSERT}; SELECT ''",),
    (f'SELECT 1 AS "\'"; COMMIT; {INSERT}; SELECT 1 AS "\'"',),
    (f"SELECT 1 AS a$b$; COMMIT; {INSERT}; SELECT 1 AS a$b$",),
    ("SET standard_conforming_strings = off", f"SELECT 'a\\', '; COMMIT; {INSERT}; --'"),
    ("COMMIT", "SET TRANSACTION READ WRITE"),
    ("COMMIT AND CHAIN", 'SET U&"transaction\\005fread_only" TO off'),
    ("ROLLBACK AND CHAIN", 'SET U&"transaction\\005fread_only" TO off'),
    ("SAVEPOINT a", "SET TRANSACTION READ WRITE"),
    ("SAVEPOINT a", 'SET U&"transaction\\005fread_only" TO off'),
    ("SAVEPOINT a", "ROLLBACK TO a", 'SET U&"transaction\\005fread_only" TO off'),
    ("SHOW server_version", 'SET U&"transaction\\005fread_only" TO off'),
    ("PREPARE TRANSACTION 'written'",),
    ("PREPARE/**/TRANSACTION 'written'",),
    (f"PREPARE TRANSACTION 'written'; {INSERT}",),
    ("COMMIT PREPARED 'waiting'",),
    ("ROLLBACK PREPARED 'waiting'",),
    ("PREPARE writing AS INSERT INTO documents (owner) VALUES ('x')", "EXECUTE writing"),
)

#: What only looks like a way out, or like something that writes.
READS: Final = (
    "DO $$ BEGIN PERFORM 1; END $$",
    "DO $$ BEGIN PERFORM 1; END; $$",
    "SELECT CASE WHEN true THEN 1 ELSE 2 END",
    "SELECT CASE WHEN true THEN 1 END; SELECT 2",
    "SELECT 'COMMIT; INSERT'",
    "SELECT 'read write'",
    'SELECT 1 AS "end", 2 AS "commit; x", 3 AS write, 4 AS "read write"',
    "SELECT 1 /* COMMIT; INSERT */",
    "SELECT 1 -- SET TRANSACTION READ WRITE; COMMIT; SELECT 1",
    "SELECT $$END; COMMIT; $$",
    "SHOW transaction_read_only",
    "SELECT current_setting('transaction_read_only')",
    "SET TRANSACTION READ ONLY",
    "SET LOCAL transaction_read_only = on",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET LOCAL statement_timeout = '10s'",
    "SET LOCAL work_mem = '8MB'; SELECT 1",
    "SAVEPOINT a; ROLLBACK TO a; SELECT 1",
    "DECLARE rows CURSOR FOR SELECT id FROM documents; FETCH ALL FROM rows",
    "EXPLAIN INSERT INTO documents (owner) VALUES ('x')",
    "EXPLAIN (ANALYZE) SELECT * FROM documents",
    "TABLE documents",
    "VALUES (1), (2)",
    "SELECT lastval() WHERE false",
    "COMMIT",
    "COMMIT;",
    "ROLLBACK; -- that is all",
    "SELECT count(*) FROM documents; COMMIT /* and good bye */ ;",
)


class Blocking:
    """A synchronous manager."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.mgr: Any = SessionManager(dsn, Base, **options)

    @property
    def pool(self) -> Any:
        return self.mgr.sync_engine.pool

    def unit(self, work: Callable[[Session], T], schema: str = BERN, **options: Any) -> T:
        """Do something with the session of a unit of work."""
        with self.mgr.schema(schema, **options) as session:
            return work(session)

    def beside(self, work: Callable[[Session, Session], T], **options: Any) -> T:
        """Do something with the writing and the reading session of a unit of work."""
        with self.mgr.schema(BERN) as session:
            return work(session, self.mgr.reader(**options))

    def check(self) -> list[ReplicaStatus]:
        """Ask the replicas now."""
        found: list[ReplicaStatus] = self.mgr.check_replicas()
        return found

    def close(self) -> None:
        transaction.abort()
        self.mgr.dispose()


class Asynchronous:
    """An asynchronous manager, in an event loop that runs while something is done."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.mgr: Any = AsyncSessionManager(dsn, Base, **options)

    @property
    def pool(self) -> Any:
        return self.mgr.sync_engine.pool

    def unit(self, work: Callable[[Session], T], schema: str = BERN, **options: Any) -> T:
        """Do something with the session of a unit of work."""

        async def main() -> T:
            async with self.mgr.schema(schema, **options) as session:
                done: T = await session.run_sync(work)
                return done

        return self.runner.run(main())

    def beside(self, work: Callable[[Session, Session], T], **options: Any) -> T:
        """Do something with the writing and the reading session of a unit of work."""

        async def main() -> T:
            async with self.mgr.schema(BERN) as session:
                reader = self.mgr.reader(**options).sync_session
                done: T = await session.run_sync(lambda writer: work(writer, reader))
                return done

        return self.runner.run(main())

    def check(self) -> list[ReplicaStatus]:
        """Ask the replicas now."""
        found: list[ReplicaStatus] = self.runner.run(self.mgr.check_replicas())
        return found

    def close(self) -> None:
        self.runner.run(self.mgr.dispose())
        self.runner.close()


Manager = Blocking | Asynchronous

#: How a manager is made, by name: its class, driver and options.
KINDS: Final[dict[str, tuple[Any, str, dict[str, Any]]]] = {
    "psycopg2": (Blocking, "psycopg2", {}),
    "psycopg": (Blocking, "psycopg", {"transaction_manager": None}),
    "psycopg-pipeline": (Blocking, "psycopg", {"pipeline": True}),
    "asyncpg": (Asynchronous, "asyncpg", {}),
    "psycopg-async": (Asynchronous, "psycopg", {}),
}


def new_manager(kind: str, server: Any, database: str, **options: Any) -> Manager:
    """Make a manager of a kind."""
    make, driver, own = KINDS[kind]
    manager: Manager = make(server.dsn(database, driver=driver, tcp=False), **{**own, **options})
    return manager


def new_routed(kind: str, replicated: Replicated, database: str, **options: Any) -> Manager:
    """Make a manager that reads from the standbys."""
    _, driver, _ = KINDS[kind]
    urls = [standby.dsn(database, driver=driver) for standby in replicated.standbys]
    options.setdefault("replicas", urls)
    return new_manager(kind, replicated.primary.server, database, **options)


def server_of(session: Session) -> str:
    """Return the name of the standby, an empty one for the primary."""
    return str(session.scalar(text("SELECT current_setting('cluster_name')")))


def read_at(manager: Manager, schema: str = BERN, times: int = 4) -> set[str]:
    """Return the names of the servers that some reading sessions read from."""
    return {manager.unit(server_of, schema, readonly=True) for _ in range(times)}


def wait_until_read_at(manager: Manager, *standbys: Standby, hurries: bool = True) -> None:
    """Check the replicas until reads go to exactly these.

    To hurry is to write something, so that the primary's log is written to its end.
    """
    names = {standby.name for standby in standbys}

    def are_read() -> bool:
        if hurries:
            ask(standbys[0].primary, "SELECT pg_logical_emit_message(true, 'tests', 'now')")
        manager.check()
        return all(read_at(manager, schema) == names for schema in (BERN, BASEL))

    wait_until(are_read, f"reads do not go to {names}")


def add_document(session: Session) -> None:
    """Write a row."""
    session.add(Document(owner=str(session.info["schema"])))


#: One row with all that a write would have changed, and how the transactions are.
CONTENTS: Final = """
    SELECT
        (SELECT array_agg(document::text ORDER BY id) FROM documents AS document),
        (SELECT ROW(last_value, is_called)::text FROM documents_id_seq),
        (SELECT array_agg(ROW(relname, relacl, obj_description(oid))::text ORDER BY relname)
         FROM pg_class WHERE relnamespace = current_schema()::regnamespace),
        (SELECT array_agg(gid ORDER BY gid) FROM pg_prepared_xacts),
        current_setting('transaction_read_only'),
        current_setting('default_transaction_read_only')
"""


def contents(session: Session) -> tuple[Any, ...]:
    """Return what a write would have changed, from a session that can write."""
    found = tuple(session.execute(text(CONTENTS)).one())
    assert found[-2:] == ("off", "off")
    return found


def attack(session: Session, statements: tuple[str, ...], prefix: str) -> list[Any]:
    """Run statements, then try to write, and do not mind errors; return these."""
    errors: list[Any] = []
    for statement in (*statements, INSERT, "COMMIT"):
        try:
            session.connection().exec_driver_sql(prefix + statement)
        except (ReadOnlySession, SQLAlchemyError) as error:
            errors.append(error)
            session.rollback()
    return errors
