"""Where the benchmarks run: an embedded server, or a given one; always in a new database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final

import psycopg2
from sqlalchemy.engine import URL, make_url

from benchmarks.models import RequestBase, script_of
from onegov_orm.embedded import EmbeddedServer

ROWS_PER_SCHEMA: Final = 200

#: What says how hard a server's commits and connections are; part of the report.
_SETTINGS: Final = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


@contextmanager
def new_database(dsn: str | None, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the URL of a new database, dropped at the end; reached over TCP if embedded.

    The settings are for an embedded server.
    """
    if dsn is None:
        embedded = EmbeddedServer(tcp=True, settings=settings)
        with embedded as server, _database_on(server.dsn()) as url:
            yield url
    else:
        with _database_on(dsn) as url:
            yield url


@contextmanager
def _database_on(dsn: str) -> Iterator[str]:
    admin = with_driver(dsn, None)
    name = f"onegov_bench_{secrets.token_hex(4)}"
    run(admin, f"CREATE DATABASE {name}")
    try:
        yield make_url(admin).set(database=name).render_as_string(hide_password=False)
    finally:
        run(admin, f"DROP DATABASE {name} WITH (FORCE)")


def with_driver(dsn: str, driver: str | None) -> str:
    """Return the URL for a driver of SQLAlchemy's, or for libpq."""
    name = f"postgresql+{driver}" if driver else "postgresql"
    return make_url(dsn).set(drivername=name).render_as_string(hide_password=False)


def run(dsn: str, *statements: str) -> None:
    """Run statements, each as a message of its own, in autocommit."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def schema_names(count: int) -> list[str]:
    """Return the names of the customers' schemas."""
    return [f"bench-{number:02}" for number in range(count)]


def create_request_schemas(dsn: str, schemas: Sequence[str]) -> None:
    """Create schemas with the tables that requests use, and rows in them."""
    tables = script_of(RequestBase.metadata)
    for schema in schemas:
        run(
            dsn,
            f'CREATE SCHEMA "{schema}"; SET search_path TO "{schema}"; {tables};'
            "INSERT INTO accounts (id, name, balance, details)"
            "SELECT number, 'account ' || number, 0, '{\"city\": \"Bern\"}'"
            f"FROM generate_series(1, {ROWS_PER_SCHEMA}) AS number",
        )


def tidy(dsn: str, schemas: Sequence[str]) -> None:
    """Undo what requests have left, so that the next ones find what the first ones found."""
    statements = []
    for schema in schemas:
        statements.append(f'TRUNCATE "{schema}".entries')
        statements.append(f'VACUUM (FULL, ANALYZE) "{schema}".accounts')
    run(dsn, *statements, "CHECKPOINT")


def describe_server(dsn: str, more: Sequence[str] = ()) -> dict[str, str]:
    """Return what figures depend on: version, settings and the way to the server."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        found = {}
        for name in (*_SETTINGS, *more):
            cursor.execute(f"SHOW {name}")
            (found[name],) = cursor.fetchone() or ("",)
    return found | {"reached by": way_to(make_url(dsn))}


def way_to(url: URL) -> str:
    """Tell how the server is reached."""
    host = url.host or str(url.query.get("host", ""))
    return "Unix socket" if not host or host.startswith("/") else "TCP"
