"""An empty database for the demo: on the embedded server, or on a given one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.engine import make_url

from onegov_orm.embedded import EmbeddedServer


@contextmanager
def embedded_database() -> Iterator[str]:
    """Yield the URL of a database on a server that lives as long as the block."""
    with EmbeddedServer(tcp=True) as server:
        yield server.create_database("towns")


@contextmanager
def new_database(dsn: str, keep: bool) -> Iterator[str]:
    """Yield the URL of a new database on the server of a URL; it is dropped, unless kept."""
    given = make_url(dsn)
    ours = given.set(database=f"towns_{token_hex(4)}")
    _run(given, f"CREATE DATABASE {ours.database}")
    try:
        yield ours.render_as_string(hide_password=False)
    finally:
        if not keep:
            _run(given, f"DROP DATABASE {ours.database} WITH (FORCE)")


def _run(url: URL, sql: str) -> None:
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg2")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(sql))
