"""Random interleavings behind a PgBouncer that has two connections for everybody.

Workers of one manager go from customer to customer, in threads or in tasks, and other clients
of the pooler leave their search path and their tables on the server's connections. Each row
carries its owner, and is checked by whoever reads it; at the end, the tables are looked at
from outside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg2.errors
import pytest
import sqlalchemy
from sqlalchemy import delete, exc, func, insert, select, text, update

from onegov_orm import AsyncSessionManager, SessionManager, _sql
from onegov_orm._connection import SchemaState
from tests.clients import CLIENTS, driver_of
from tests.conftest import Databases
from tests.models import Base, Color, Document
from tests.poolers import PgBouncer
from tests.storms.customers import ForeignRow, StormFailure, UnexpectedError, WrongPath

pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated"),
]

#: Of each storm; CI has eight of them.
STEPS = int(os.environ.get("ONEGOV_ORM_POOLER_STORM_STEPS", "1300"))
WORKERS = 6
TOWNS = ("towns-bern", "towns_basel", "user", "z" * 63)

RETRYABLE = frozenset({"40001", "40P01"})
#: A table is not found, or has an enum of another customer's.
NOT_FOUND = ("42P01", "42804", "42883")

RECENT = text("SELECT owner FROM documents ORDER BY id DESC LIMIT 5")

#: Nobody sees through it: it moves the path for the transaction, or for good.
SECRET = """
    CREATE OR REPLACE FUNCTION extensions.secret(target text, is_local bool) RETURNS int
    LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('search_path', quote_ident(target), is_local);
        RETURN 1;
    END $$
"""


#: Hides a table, in one message: so all of it is on one of the server's connections.
HIDE = """
    DROP TABLE IF EXISTS pg_temp.documents;
    CREATE TEMP TABLE documents (LIKE "{target}".documents INCLUDING DEFAULTS);
    INSERT INTO pg_temp.documents (owner, color) VALUES ('stolen', 'RED')
"""


def sqlstate(error: BaseException) -> str | None:
    original = getattr(error, "orig", None) or error
    found = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return None if found is None else str(found)


class Storm:
    """What the workers have in common."""

    def __init__(self, seed: int, direct: str, pooled: str, is_newest: bool) -> None:
        self.seed = seed
        self.direct = direct
        self.pooled = pooled
        self.is_newest = is_newest
        self.done: Counter[str] = Counter()
        self.log: list[str] = []
        self.failures: list[BaseException] = []
        #: Errors that are no failure: those who meet them try again.
        self.excused = set(RETRYABLE)

    @property
    def steps(self) -> int:
        return sum(self.done.values())

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)

    def excuses(self, error: BaseException) -> bool:
        """Tell whether such an error belongs to a storm."""
        return not isinstance(error, StormFailure) and sqlstate(error) in self.excused

    def raise_failure(self) -> None:
        if self.failures:
            last = "\n  ".join(self.log[-40:])
            error = self.failures[0]
            kind = type(error) if isinstance(error, StormFailure) else UnexpectedError
            raise kind(
                f"{error}\nto repeat it, set ONEGOV_ORM_STORM_SEED={self.seed}\nlast:\n  {last}"
            ) from error

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the server, past the pooler."""
        with closing(psycopg2.connect(self.direct)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

    def look(self) -> None:
        """Look for foreign rows from outside."""
        for town in TOWNS:
            strays = self.ask(f"SELECT owner FROM \"{town}\".documents WHERE owner <> '{town}'")
            if strays:
                raise ForeignRow(f"seen from outside in {town}: {strays[:3]}")
        stolen = self.ask(
            "SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = "
            "pg_namespace.oid WHERE relname = 'documents' "
            "AND nspname NOT LIKE 'pg_temp%'"
        )
        if {name for (name,) in stolen} != set(TOWNS):
            raise ForeignRow(f"there are documents in {stolen}")


class Work:
    """Some random operations in one transaction of a customer's."""

    def __init__(self, storm: Storm, chooser: random.Random) -> None:
        self.storm = storm
        self.random = chooser
        self.town = chooser.choice(TOWNS)
        self.victim = chooser.choice([town for town in TOWNS if town != self.town])

    def __call__(self, session: Any) -> None:
        for _ in range(self.random.randint(1, 6)):
            operation = self.random.choice(OPERATIONS)
            self.storm.log.append(f"{self.town}: {operation.__name__} ({self.victim})")
            operation(self, session)
            self.storm.done[operation.__name__] += 1
        if self.random.random() < 0.2:
            session.rollback()

    def check(self, owners: Any) -> None:
        foreign = set(owners) - {self.town}
        if foreign:
            raise ForeignRow(f"{self.town} met rows of {foreign}")

    def read(self, session: Any) -> None:
        self.check(session.scalars(RECENT))

    def read_objects(self, session: Any) -> None:
        query = select(Document).where(Document.color == Color.RED).limit(5)
        self.check(found.owner for found in session.scalars(query))

    def read_path(self, session: Any) -> None:
        found = session.scalar(text("SELECT CAST(current_schema() AS text)"))
        if found != self.town:
            raise WrongPath(f"{self.town} works in {found}")

    def write(self, session: Any) -> None:
        made = session.scalar(
            text(
                f"INSERT INTO documents (owner, color) VALUES ('{self.town}', 'RED') "
                "RETURNING owner"
            )
        )
        self.check([made])
        if self.random.random() < 0.3:
            self.read(session)

    def write_objects(self, session: Any) -> None:
        session.add(Document(owner=self.town, color=Color.GREEN, tags={"owner": self.town}))
        session.flush()

    def write_many(self, session: Any) -> None:
        rows = [{"owner": self.town, "color": Color.RED}] * 3
        self.check(session.scalars(insert(Document).returning(Document.owner), rows))

    def change(self, session: Any) -> None:
        last = select(func.max(Document.id)).scalar_subquery()
        statement = update(Document).where(Document.id == last).values(title="changed")
        # SQLAlchemy 2.0 by itself now and then returns the key in the place of the owner.
        options = {} if sqlalchemy.__version__ >= "2.1" else {"synchronize_session": False}
        changed = statement.returning(Document.owner)
        self.check(session.scalars(changed, execution_options=options))

    def remove(self, session: Any) -> None:
        oldest = select(Document.id).order_by(Document.id).limit(5).scalar_subquery()
        statement = delete(Document).where(Document.id.in_(oldest)).returning(Document.owner)
        options = {"synchronize_session": False}
        self.check(session.scalars(statement, execution_options=options))

    def nest(self, session: Any) -> None:
        with suppress(ZeroDivisionError), session.begin_nested():
            self.write(session)
            self.read(session)
            if self.random.random() < 0.5:
                raise ZeroDivisionError
        self.read(session)

    def fail_in_savepoint(self, session: Any) -> None:
        try:
            with session.begin_nested():
                session.execute(text("SELECT 1 / 0"))
        except exc.DBAPIError as error:
            if sqlstate(error) != "22012":
                raise
        self.read(session)

    def stream(self, session: Any) -> None:
        query = text("SELECT owner FROM documents LIMIT 7").execution_options(yield_per=2)
        self.check(session.scalars(query))

    def move_openly(self, session: Any) -> None:
        session.execute(text(f'SET LOCAL search_path TO "{self.victim}"'))
        self.write(session)

    def move_in_secret(self, session: Any) -> None:
        """No server before 18 tells it: there the transaction has to end."""
        local = "true" if self.random.random() < 0.4 else "false"
        session.scalar(text(f"SELECT extensions.secret('{self.victim}', {local})"))
        if not self.storm.is_newest:
            session.commit()
        self.write(session)
        self.read(session)


OPERATIONS = [
    Work.read, Work.read, Work.read_objects, Work.read_path, Work.write, Work.write_objects,
    Work.write_many, Work.change, Work.remove, Work.nest, Work.fail_in_savepoint, Work.stream,
    Work.move_openly, Work.move_in_secret, Work.move_in_secret,
]  # fmt: skip


class Polluter(threading.Thread):
    """Another application behind the same pooler, which has no idea of its ways."""

    def __init__(self, storm: Storm) -> None:
        super().__init__(name="polluter")
        self.storm = storm
        self.random = random.Random(f"{storm.seed}-polluter")
        self.over = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.pollute()
                self.rounds += 1
        except BaseException as error:
            self.storm.failed(error)

    def pollute(self) -> None:
        target = self.random.choice(TOWNS)
        ways = (
            f'SET search_path TO "{target}"',
            f'SET search_path TO "{target}", extensions',
            f"SELECT extensions.secret('{target}', false)",
            HIDE.format(target=target),
        )
        with closing(psycopg2.connect(self.storm.pooled)) as connection:
            connection.autocommit = True
            # the customers are made in the meantime
            early = (psycopg2.errors.InvalidSchemaName, psycopg2.errors.UndefinedTable)
            with connection.cursor() as cursor, suppress(*early):
                cursor.execute(self.random.choice(ways))
        self.over.wait(0.01)


def storm_of_threads(storm: Storm, manager: SessionManager) -> None:
    def work(number: int) -> None:
        chooser = random.Random(f"{storm.seed}-{number}")
        while storm.steps < STEPS and not storm.failures:
            one = Work(storm, chooser)
            try:
                with manager.schema(one.town) as session:
                    one(session)
            except BaseException as error:
                if not storm.excuses(error):
                    storm.failed(error)
                    return

    for town in TOWNS:
        manager.ensure_schema_exists(town)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def storm_of_tasks(storm: Storm, manager: AsyncSessionManager) -> None:
    async def work(number: int) -> None:
        chooser = random.Random(f"{storm.seed}-{number}")
        while storm.steps < STEPS and not storm.failures:
            one = Work(storm, chooser)
            try:
                async with manager.schema(one.town) as session:
                    await session.run_sync(one)
            except Exception as error:
                if not storm.excuses(error):
                    storm.failed(error)
                    return

    for town in TOWNS:
        await manager.ensure_schema_exists(town)
    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    await manager.dispose()


def make_storm(databases: Databases, pooler: PgBouncer, name: str, driver: str) -> Storm:
    seed = int(os.environ.get("ONEGOV_ORM_STORM_SEED") or random.randrange(2**32))
    direct = databases.server.dsn(name, tcp=False)
    is_newest = databases.server.version >= 18
    return Storm(seed, direct, pooler.dsn(name), is_newest)


@contextmanager
def pollution(storm: Storm) -> Iterator[None]:
    polluter = Polluter(storm)
    polluter.start()
    try:
        yield
    finally:
        polluter.over.set()
        polluter.join()
        assert polluter.rounds or storm.failures


def run_storm(storm: Storm, client: str, dsn: str) -> None:
    """Have a storm, and look at what it left."""
    storm.ask(SECRET)
    options: dict[str, Any] = {"pooler": "external"}
    if client.endswith("pipeline"):
        options["pipeline"] = True
    with pollution(storm):
        if client in ("asyncpg", "psycopg_async"):

            async def main() -> None:
                await storm_of_tasks(storm, AsyncSessionManager(dsn, Base, **options))

            asyncio.run(main())
        else:
            manager = SessionManager(dsn, Base, transaction_manager=None, **options)
            storm_of_threads(storm, manager)
            manager.dispose()
    storm.raise_failure()
    storm.look()


STORMS = [
    *[("newest", client) for client in CLIENTS],
    *[("older", client) for client in ("psycopg2", "asyncpg", "psycopg_async")],
]


@pytest.fixture(autouse=True)
def no_warnings_logged() -> Iterator[None]:
    """The warnings of moved paths would fill the memory of the test run."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("server", "client"), STORMS)
def test_no_row_is_foreign_behind_a_pooler(
    request: pytest.FixtureRequest, new_pooler: Callable[..., PgBouncer], server: str, client: str
) -> None:
    databases: Databases = request.getfixturevalue(server)
    name = databases.create()
    pooler = new_pooler(databases, default_pool_size=2)
    storm = make_storm(databases, pooler, name, client)
    try:
        run_storm(storm, client, pooler.dsn(name, driver=driver_of(client)))
    finally:
        pooler.stop()
        databases.drop(name)
    print(f"{storm.steps} steps: {storm.done}")
    assert storm.steps >= STEPS


@pytest.mark.skipif(
    "ONEGOV_ORM_POOLER_STORM_STEPS" in os.environ, reason="the number of steps was chosen"
)
def test_ten_thousand_steps_are_done() -> None:
    assert STEPS * len(STORMS) >= 10_000


# -- a storm notices a manager that was not made for poolers


def set_for_the_session(patch: pytest.MonkeyPatch) -> None:
    """SET in the place of SET LOCAL, once per connection of a client."""
    known: set[int] = set()

    def opening(state: Any) -> list[str]:
        if state.prelude is None:
            return [state._begin()]
        key = hash((id(state), state.prelude.schema))
        if key in known:
            return [state._begin()]
        known.add(key)
        return [state._begin(), _sql.set_search_path(state.prelude.search_path)]

    patch.setattr(SchemaState, "_opening", opening)
    patch.setattr(SchemaState, "_correction", lambda state: ())


def trust_the_path(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the path was moved."""
    patch.setattr(SchemaState, "_correction", lambda state: ())


def not_cleansed(patch: pytest.MonkeyPatch) -> None:
    """Temporary tables of others are left there."""
    patch.setattr(SchemaState, "_admission", lambda state: [])


@pytest.mark.parametrize("client", ["psycopg2", "asyncpg"])
@pytest.mark.parametrize("mistake", [set_for_the_session, trust_the_path, not_cleansed])
def test_a_storm_notices(
    newest: Databases,
    new_pooler: Callable[..., PgBouncer],
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
    client: str,
) -> None:
    name = newest.create()
    pooler = new_pooler(newest, default_pool_size=2)
    storm = make_storm(newest, pooler, name, client)
    dsn = pooler.dsn(name, driver=driver_of(client))
    manager = SessionManager(newest.server.dsn(name, tcp=False), Base, transaction_manager=None)
    for town in TOWNS:
        manager.ensure_schema_exists(town)
    manager.dispose()
    try:
        mistake(monkeypatch)
        # It is not enough that a customer's tables are not found.
        storm.excused.update(NOT_FOUND)
        with pytest.raises((ForeignRow, WrongPath)):
            run_storm(storm, client, dsn)
    finally:
        pooler.stop()
        newest.drop(name)
    print(f"noticed after {storm.steps} steps")
