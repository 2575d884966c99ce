"""What a manager can be told, and what it does not let itself be told."""

from __future__ import annotations

import copy
import json
import logging
from decimal import Decimal
from types import MappingProxyType

import psycopg2.extensions
import psycopg2.extras
import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from onegov_orm import SessionManager, _connecting
from onegov_orm.errors import ConfigurationError, InvalidSchemaName, UnsupportedDatabase
from tests.models import Base, Document
from tests.processes import nobody_else_stays
from tests.provisioning import base_of, statements_of


def isolation_of(mgr):
    mgr.set_current_schema("a")
    found = mgr.session().scalar(sa.text("SHOW transaction_isolation"))
    transaction.abort()
    return found


def setting(connection, name):
    return connection.scalar(sa.text(f"SHOW {name}"))


# -- the dsn


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_a_plain_url_means_psycopg2(scheme):
    mgr = SessionManager(f"{scheme}://user:secret@host/db", Base)
    assert mgr.engine.dialect.driver == "psycopg2"
    assert mgr.dsn == f"{scheme}://user:secret@host/db"


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgres+psycopg"])
def test_psycopg_3_is_named(scheme):
    assert SessionManager(f"{scheme}://host/db", Base).engine.dialect.driver == "psycopg"


def test_a_url_object_keeps_its_password():
    mgr = SessionManager(make_url("postgresql://user:secret@host/db"), Base)
    assert mgr.dsn == "postgresql://user:secret@host/db"
    assert "secret" not in repr(mgr)


@pytest.mark.parametrize(
    "dsn", ["mysql://host/db", "sqlite://", "cockroachdb://host", "postgresql+pg8000://host/db"]
)
def test_another_database_or_driver(dsn):
    with pytest.raises(UnsupportedDatabase, match=r"only PostgreSQL|driver"):
        SessionManager(dsn, Base)


@pytest.mark.parametrize(
    "dsn", ["postgresql+asyncpg://host/db", "postgresql+psycopg_async://host"]
)
def test_an_asynchronous_driver(dsn):
    with pytest.raises(UnsupportedDatabase, match="async"):
        SessionManager(dsn, Base)


@pytest.mark.parametrize("dsn", ["", "nonsense", "host/db", "postgresql://host:port/db", None, 1])
def test_no_url_at_all(dsn):
    with pytest.raises(ConfigurationError, match="the dsn is not a URL"):
        SessionManager(dsn, Base)


def test_nothing_is_connected_yet():
    SessionManager("postgresql://nobody@127.0.0.1:1/nothing", Base).dispose()


def test_a_server_that_is_too_old(dsn, new_manager, outside, monkeypatch):
    monkeypatch.setattr(_connecting, "OLDEST_SERVER_VERSION", 190_000)
    mgr = new_manager(dsn, Base)
    with pytest.raises(UnsupportedDatabase, match=r"PostgreSQL 1\d is too old, 19 is the oldest"):
        mgr.set_current_schema("a")
    assert nobody_else_stays(outside(dsn))


# -- the callers' dictionaries


def test_the_callers_dictionaries_stay_as_they_are(common_dsn, new_manager):
    given = (
        {"echo": False, "connect_args": {"connect_timeout": 5}, "pool_pre_ping": True},
        {"autoflush": False, "class_": Session},
        {"poolclass": QueuePool, "pool_size": 2},
    )
    before = copy.deepcopy(given)
    new_manager(common_dsn, Base, *given).set_current_schema("a")
    assert given == before


def freeze(**settings):
    return MappingProxyType(settings)


def test_frozen_dictionaries_are_fine(common_dsn, new_manager):
    mgr = new_manager(common_dsn, Base, freeze(echo=False), freeze(), freeze(pool_size=1))
    mgr.set_current_schema("a")


WEAKENING = [
    {"isolation_level": "READ COMMITTED"},
    {"isolation_level": None},
    {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    {"execution_options": {"schema": "b"}},
    {"execution_options": {"schema_translate_map": {None: "b"}}},
    {"creator": lambda: None},
    {"pool": object()},
]


@pytest.mark.parametrize("config", WEAKENING, ids=lambda config: "-".join(config))
@pytest.mark.parametrize("position", [0, 2], ids=["engine_config", "pool_config"])
def test_the_engine_and_its_pool_stay_the_managers(config, position):
    configs = [None, None, None]
    configs[position] = config
    with pytest.raises(ConfigurationError, match="can't be set"):
        SessionManager("postgresql://host/db", Base, *configs)


@pytest.mark.parametrize(
    "config",
    [
        {"bind": sa.create_engine("sqlite://")},
        {"binds": {}},
        {"info": {"schema": "b"}},
        {"execution_options": {"schema_translate_map": {None: "b"}}},
        {"execution_options": {"isolation_level": "READ COMMITTED"}},
    ],
    ids=lambda config: "-".join(config),
)
def test_the_sessions_stay_the_managers(config):
    with pytest.raises(ConfigurationError):
        SessionManager("postgresql://host/db", Base, None, config)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "nonsense", "serializable", None, ""])
def test_a_level_that_is_none(level):
    with pytest.raises(ConfigurationError, match="isolation_level"):
        SessionManager("postgresql://host/db", Base, isolation_level=level)


@pytest.mark.parametrize("pool_class", [StaticPool, SingletonThreadPool])
def test_no_pool_that_hands_a_connection_to_two_sessions(pool_class):
    """One of the two would work in the schema of the other."""
    for configs in ((None, None, {"poolclass": pool_class}), ({"poolclass": pool_class},)):
        with pytest.raises(ConfigurationError, match=pool_class.__name__):
            SessionManager("postgresql://host/db", Base, *configs)


# -- isolation level


def test_serializable_unless_asked(dsn, new_manager):
    assert isolation_of(new_manager(dsn, Base)) == "serializable"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "READ COMMITTED"])
def test_a_weaker_level_by_name(common_dsn, new_manager, level):
    assert isolation_of(new_manager(common_dsn, Base, isolation_level=level)) == level.lower()


@pytest.mark.parametrize(
    "connect_args",
    [
        {"options": "-c default_transaction_isolation=read\\ committed"},
        {"options": "-c search_path=public"},
        {"autocommit": True},
    ],
    ids=str,
)
def test_nothing_said_while_connecting_weakens_it(common_dsn, new_manager, connect_args):
    driver = "postgresql+psycopg" if "autocommit" in connect_args else "postgresql"
    dsn = common_dsn.replace("postgresql", driver, 1)
    assert isolation_of(new_manager(dsn, Base, {"connect_args": connect_args})) == "serializable"


def test_provisioning_leaves_the_level_of_the_connection(common_dsn, new_manager):
    mgr = new_manager(common_dsn, Base, pool_config={"pool_size": 1, "max_overflow": 0})
    for _ in range(2):
        assert isolation_of(mgr) == "serializable"
        mgr.set_current_schema("b")
        mgr.provisioner.forget("b")


# -- settings of a connection


def test_idle_transactions_end(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    with statements_of(mgr) as sent, mgr.engine.connect() as connection:
        found = setting(connection, "idle_in_transaction_session_timeout")
    assert found == "1h"
    assert not any("idle_in" in statement for statement in sent if "SHOW" not in statement)


def test_options_of_ones_own(common_dsn, new_manager):
    url = make_url(common_dsn).update_query_dict(
        {
            "options": "-c work_mem=5MB -c search_path=public"
            " -c idle_in_transaction_session_timeout=7s"
        }
    )
    with new_manager(url, Base).engine.connect() as connection:
        assert setting(connection, "work_mem") == "5MB"
        assert setting(connection, "idle_in_transaction_session_timeout") == "7s"
        assert setting(connection, "search_path") == "pg_catalog,extensions"


def test_options_of_the_environment(common_dsn, new_manager, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    with new_manager(common_dsn, Base).engine.connect() as connection:
        assert setting(connection, "work_mem") == "5MB"


def test_a_connection_factory_of_ones_own(common_dsn, new_manager):
    class OwnConnection(psycopg2.extensions.connection):
        note = "own"

    mgr = new_manager(common_dsn, Base, {"connect_args": {"connection_factory": OwnConnection}})
    mgr.set_current_schema("a")
    connection = mgr.session().connection().connection.driver_connection
    assert (connection.note, isinstance(connection, OwnConnection)) == ("own", True)
    assert mgr.session().scalar(sa.text("SELECT current_schema()::text")) == "a"


class OwnCursor(psycopg2.extensions.cursor):
    pass


@pytest.mark.parametrize(
    "factory", [OwnCursor, psycopg2.extras.DictCursor, psycopg2.extensions.cursor]
)
def test_a_cursor_factory_of_ones_own(common_dsn, new_manager, factory):
    mgr = new_manager(common_dsn, Base, {"connect_args": {"cursor_factory": factory}})
    for name in ("a", "b", "a"):
        mgr.set_current_schema(name)
        assert mgr.session().scalar(sa.text("SELECT current_schema()::text")) == name
        assert isolation_of(mgr) == "serializable"


# -- the pool


def test_the_default_pool_is_bounded(common_dsn, new_manager):
    pool = new_manager(common_dsn, Base).engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool._max_overflow, pool._recycle) == (5, 10, 3600)


@pytest.mark.parametrize("pool_class", [NullPool, QueuePool, AssertionPool])
def test_another_pool(common_dsn, new_manager, pool_class):
    mgr = new_manager(common_dsn, Base, pool_config={"poolclass": pool_class})
    for name in ("a", "b"):
        mgr.set_current_schema(name)
        assert mgr.session().scalar(sa.text("SELECT current_schema()::text")) == name
        transaction.abort()
    assert isinstance(mgr.engine.pool, pool_class)


def test_a_pool_config_replaces_the_defaults():
    pool = SessionManager("postgresql://host/db", Base, pool_config={"pool_size": 2}).engine.pool
    assert (pool.size(), pool._recycle) == (2, -1)


def test_pool_settings_among_the_engines():
    engine_config = {"pool_size": 2, "pool_pre_ping": True}
    pool = SessionManager("postgresql://host/db", Base, engine_config).engine.pool
    assert (pool.size(), pool._max_overflow, pool._recycle) == (2, 10, 3600)


def test_a_pool_class_among_the_engines_settings():
    pool = SessionManager("postgresql://host/db", Base, {"poolclass": NullPool}).engine.pool
    assert isinstance(pool, NullPool)


def test_a_pool_that_resets_nothing_by_itself(common_dsn, new_manager):
    pool = {"pool_size": 1, "max_overflow": 0, "pool_reset_on_return": None}
    mgr = new_manager(common_dsn, Base, pool_config=pool)
    mgr.set_current_schema("a")
    with mgr.engine.execution_options(schema="a").connect() as connection:
        connection.execute(sa.insert(Document).values(owner="a"))
    with mgr.engine.connect() as connection:
        assert setting(connection, "search_path") == "pg_catalog,extensions"
        assert connection.scalar(sa.text("SELECT count(*) FROM a.documents")) == 0


# -- engine and session


def test_echo(common_dsn, new_manager, caplog):
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        new_manager(common_dsn, Base, {"echo": True}).set_current_schema("a")
    assert "CREATE TABLE documents" in caplog.text
    logging.getLogger("sqlalchemy.engine.Engine").setLevel(logging.NOTSET)


def test_json_serializer_and_deserializer(dsn, new_manager):
    config = {
        "json_serializer": lambda value: json.dumps(value, default=str),
        "json_deserializer": lambda text: json.loads(text, parse_float=Decimal),
    }
    base = base_of(("t", Column("x", JSONB)))
    mgr = new_manager(dsn, base, config)
    mgr.set_current_schema("a")
    table = base.metadata.tables["t"]
    mgr.session().execute(table.insert().values(x={"n": 1.5, "d": Decimal("2.5")}))
    assert mgr.session().scalar(sa.select(table.c.x)) == {"n": Decimal("1.5"), "d": "2.5"}


def test_plain_jsonb_is_as_in_bare_sqlalchemy(dsn, new_manager):
    content = {"text": "ü % : ' \\", "list": [1, None, {"x": True}], "float": 0.1, "null": None}
    mgr = new_manager(dsn, Base)
    mgr.set_current_schema("a")
    mgr.session().add(Document(owner="a", content=content))
    transaction.commit()
    assert mgr.session().scalars(sa.select(Document.content)).one() == content
    query = sa.select(Document.content["list"][2]["x"].as_boolean())
    assert mgr.session().scalar(query) is True


def test_a_session_class_of_ones_own(common_dsn, new_manager):
    class OwnSession(Session):
        def hello(self):
            return f"hello {self.info['schema']}"

    mgr = new_manager(common_dsn, Base, None, {"class_": OwnSession, "autoflush": False})
    mgr.set_current_schema("a")
    assert mgr.session().hello() == "hello a"
    assert mgr.session().autoflush is False
    assert mgr.session().info == {"schema": "a"}


@pytest.mark.parametrize("name", ["Shared", "pg_ext", "x" * 64, ""])
@pytest.mark.parametrize("option", ["extensions_schema", "shared_schema"])
def test_schemas_of_the_library_have_valid_names(option, name):
    with pytest.raises(InvalidSchemaName):
        SessionManager("postgresql://host/db", Base, **{option: name})


def test_reserved_names(common_dsn, new_manager):
    mgr = new_manager(common_dsn, Base, reserved=["admin"])
    for name in ("admin", "public", "shared", "extensions"):
        assert not mgr.is_valid_schema(name)
    with pytest.raises(ConfigurationError, match="reserved"):
        SessionManager(common_dsn, Base, reserved="admin")
