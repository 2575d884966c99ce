"""The ways to work in a customer's schema that are compared, and the requests they serve.

All of them have the same pool and the same isolation level. A plain contestant commits with
``session.commit()``; a joined one with ``transaction.commit()``, by zope.sqlalchemy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

import transaction
import zope.sqlalchemy
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.models import Account, Entry, RequestBase
from onegov_orm import SessionManager

ISOLATION_LEVEL: Final = "SERIALIZABLE"

BARE: Final = "bare SQLAlchemy"
BARE_AGAIN: Final = "bare SQLAlchemy, again"
ENGINES: Final = "an engine per schema"
TRANSLATED: Final = "schema_translate_map"
SET_EACH: Final = "SET before every statement"
OURS: Final = "onegov_orm"

#: What is added to the names of contestants that join `transaction`.
JOINED: Final = " + zope"
BLOCK: Final = " with mgr.schema()"
PIPELINE: Final = " with a pipeline"


#: Which customer asks, and for which row: one for each request of a batch.
Plan = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Request:
    """What an application does for one request."""

    name: str
    work: Callable[[Session, int], None]
    #: The same for an asynchronous session.
    work_async: Callable[[AsyncSession, int], Awaitable[None]]
    writes: bool


def write(session: Session, key: int) -> None:
    """Read a row, change it, and add another one."""
    account = session.get_one(Account, key)
    account.balance += 1
    session.add(Entry(account_id=key, text="a payment", amount=Decimal("12.50")))


def read(session: Session, key: int) -> None:
    """Read a row."""
    session.scalars(select(Account).where(Account.id == key)).one()


async def write_async(session: AsyncSession, key: int) -> None:
    """Read a row, change it, and add another one."""
    account = await session.get_one(Account, key)
    account.balance += 1
    session.add(Entry(account_id=key, text="a payment", amount=Decimal("12.50")))


async def read_async(session: AsyncSession, key: int) -> None:
    """Read a row."""
    (await session.scalars(select(Account).where(Account.id == key))).one()


REQUESTS: Final = (
    Request("write", write, write_async, writes=True),
    Request("read", read, read_async, writes=False),
)


class Contestant(Protocol):
    """Serves requests of customers."""

    @property
    def name(self) -> str: ...

    @property
    def baseline(self) -> str:
        """The name of the contestant that this one is compared with."""

    def serve_all(self, request: Request, plan: Plan) -> None: ...

    def close(self) -> None: ...


class OneByOne:
    """Serves each request of a batch when the one before is done."""

    def serve_all(self, request: Request, plan: Plan) -> None:
        """Serve a batch of requests."""
        serve = self.serve
        for schema, key in plan:
            serve(request, schema, key)

    def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plain(OneByOne):
    """Has sessions that commit by themselves."""

    name: str
    new_session: Callable[[str], Session]
    close: Callable[[], None]
    baseline: str = BARE

    def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request, and close its session."""
        with self.new_session(schema) as session:
            request.work(session, key)
            if request.writes:
                session.commit()


@dataclass(frozen=True)
class Joined(OneByOne):
    """Has sessions that join the transaction of the thread, as under pyramid_tm."""

    name: str
    new_session: Callable[[str], Session]
    close: Callable[[], None]
    baseline: str = BARE + JOINED

    def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request, and commit the transaction."""
        request.work(self.new_session(schema), key)
        transaction.commit()


@dataclass(frozen=True)
class Block(OneByOne):
    """Serves each request in a block, a unit of work of its own."""

    name: str
    manager: SessionManager
    baseline: str

    def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request."""
        with self.manager.schema(schema) as session:
            request.work(session, key)

    def close(self) -> None:
        """Close the connections."""
        self.manager.dispose()


def field(url: str, schemas: Sequence[str]) -> list[Contestant]:
    """Return the contestants for requests of these schemas; bare SQLAlchemy has the first."""
    contestants = [
        _bare(url, schemas[0], BARE),
        _bare(url, schemas[0], BARE_AGAIN),
        _bare_joined(url, schemas[0]),
        _translated(url),
        _set_each(url),
        *_ours(url),
    ]
    if len(schemas) > 1:
        contestants += _engines(url, schemas)
    return contestants


def fixed_engine(url: str, schema: str, **options: Any) -> Engine:
    """Return an engine whose connections are in one schema for good."""
    return create_engine(
        url,
        isolation_level=ISOLATION_LEVEL,
        connect_args={"options": f'-c search_path="{schema}"'},
        **options,
    )


def _bare(url: str, schema: str, name: str) -> Contestant:
    engine = fixed_engine(url, schema)
    factory = sessionmaker(engine)
    return Plain(name, lambda _schema: factory(), engine.dispose)


def _bare_joined(url: str, schema: str) -> Contestant:
    engine = fixed_engine(url, schema)
    factory = sessionmaker(engine)
    zope.sqlalchemy.register(factory)
    return Joined(BARE + JOINED, lambda _schema: factory(), engine.dispose, baseline=BARE)


def _engines(url: str, schemas: Sequence[str]) -> list[Contestant]:
    # The two share their engines, as all connections together have to fit into the server.
    engines = _engine_of_each(url, schemas)
    dispose = _disposer(engines)
    plain, joined = sessionmaker(), sessionmaker()
    zope.sqlalchemy.register(joined)
    return [
        Plain(ENGINES, lambda schema: plain(bind=engines[schema]), dispose),
        Joined(ENGINES + JOINED, lambda schema: joined(bind=engines[schema]), dispose),
    ]


def _engine_of_each(url: str, schemas: Sequence[str]) -> dict[str, Engine]:
    return {schema: fixed_engine(url, schema, pool_size=1, max_overflow=0) for schema in schemas}


def _disposer(engines: dict[str, Engine]) -> Callable[[], None]:
    def dispose() -> None:
        for engine in engines.values():
            engine.dispose()

    return dispose


def _translated(url: str) -> Contestant:
    engine = create_engine(url, isolation_level=ISOLATION_LEVEL)
    factory = sessionmaker()

    def new_session(schema: str) -> Session:
        return factory(bind=engine.execution_options(schema_translate_map={None: schema}))

    return Plain(TRANSLATED, new_session, engine.dispose)


def _set_each(url: str) -> Contestant:
    engine = create_engine(url, isolation_level=ISOLATION_LEVEL)
    factory = sessionmaker()

    @event.listens_for(engine, "before_cursor_execute")
    def set_search_path(connection: Any, cursor: Any, *_args: Any) -> None:
        schema = connection.get_execution_options()["customer"]
        cursor.execute(f'SET search_path TO "{schema}"')

    def new_session(schema: str) -> Session:
        return factory(bind=engine.execution_options(customer=schema))

    return Plain(SET_EACH, new_session, engine.dispose)


def _ours(url: str) -> list[Contestant]:
    plain = SessionManager(url, RequestBase, transaction_manager=None)
    plain_block = SessionManager(url, RequestBase, transaction_manager=None)
    joined = SessionManager(url, RequestBase)
    joined_block = SessionManager(url, RequestBase)
    return [
        Plain(OURS, session_of(plain), plain.dispose),
        Block(OURS + BLOCK, plain_block, BARE),
        Joined(OURS + JOINED, session_of(joined), joined.dispose),
        Block(OURS + JOINED + BLOCK, joined_block, BARE + JOINED),
        *(_ours_with_a_pipeline(url) if make_url(url).drivername.endswith("psycopg") else ()),
    ]


def _ours_with_a_pipeline(url: str) -> list[Contestant]:
    """Return psycopg 3 as it works over a network by default."""
    plain = SessionManager(url, RequestBase, transaction_manager=None, pipeline=True)
    joined = SessionManager(url, RequestBase, pipeline=True)
    return [
        Plain(OURS + PIPELINE, session_of(plain), plain.dispose),
        Joined(OURS + JOINED + PIPELINE, session_of(joined), joined.dispose),
    ]


def session_of(manager: SessionManager) -> Callable[[str], Session]:
    """Return a function that makes a schema current and returns its session."""

    def current_session(schema: str) -> Session:
        manager.set_current_schema(schema)
        return manager.session()

    return current_session
