"""Schemas on the database: created, found, listed."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from onegov_orm import query_schemas
from onegov_orm.errors import InvalidSchemaName, NoCurrentSchema, SchemaExists, SchemaNotFound
from tests.provisioning import base_of, has_schema, relations, statements_of


@pytest.fixture
def mgr(common_dsn, new_manager):
    return new_manager(common_dsn, base_of(("t",)))


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


def test_created_empty(mgr, execute):
    mgr.create_schema("towns-bern")
    assert mgr.is_schema_found_on_database("towns-bern")
    assert relations(execute, '"towns-bern"') == []
    assert mgr.current_schema is None


def test_created_twice(dsn, new_manager):
    mgr = new_manager(dsn, base_of(("t",)))
    mgr.create_schema("a")
    with pytest.raises(SchemaExists, match='"a" exists already') as caught:
        mgr.create_schema("a")
    assert caught.value.schema == "a"


def test_created_if_not_exists(mgr):
    mgr.create_schema_if_not_exists("a")
    mgr.create_schema_if_not_exists("a")
    assert mgr.list_schemas() == ["a"]


@pytest.mark.parametrize("method", ["create_schema", "create_schema_if_not_exists"])
def test_a_reserved_name_has_to_be_asked_for(mgr, execute, method):
    with pytest.raises(InvalidSchemaName, match="reserved"):
        getattr(mgr, method)("shared")
    getattr(mgr, method)("shared", validate=False)
    assert has_schema(execute, "shared")


@pytest.mark.parametrize("name", ["A", "a;b", "pg_a", "x" * 64, "", None, 'a"'])
def test_nothing_is_sent_for_a_bad_name(mgr, name):
    with statements_of(mgr) as sent:
        for call in (
            mgr.set_current_schema,
            mgr.ensure_schema_exists,
            mgr.create_schema,
            mgr.create_schema_if_not_exists,
            lambda name: mgr.create_schema(name, validate=False),
            lambda name: mgr.schema(name).__enter__(),
            lambda name: mgr.set_current_schema(name, create=False),
        ):
            with pytest.raises(InvalidSchemaName):
                call(name)
    assert sent == []
    assert mgr.engine.pool.checkedin() == 0


def test_a_bad_name_leaves_the_current_schema(mgr):
    mgr.set_current_schema("a")
    with pytest.raises(InvalidSchemaName):
        mgr.set_current_schema("A")
    assert mgr.current_schema == "a"


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [("a", True), ("A", False), (None, False), ("public", False), ("x" * 64, False)],
)
def test_is_valid_schema(mgr, name, is_valid):
    assert mgr.is_valid_schema(name) is is_valid


def test_an_unknown_schema_is_not_made(mgr, execute):
    with pytest.raises(SchemaNotFound, match='"a" does not exist') as caught:
        mgr.set_current_schema("a", create=False)
    assert caught.value.schema == "a"
    with pytest.raises(SchemaNotFound), mgr.schema("a", create=False):
        pass
    assert not has_schema(execute)
    assert mgr.current_schema is None
    with pytest.raises(NoCurrentSchema):
        mgr.session()


def test_a_known_schema_is_found(mgr):
    mgr.create_schema("a")
    mgr.set_current_schema("a", create=False)
    assert mgr.current_schema == "a"


def test_a_longer_name_is_not_found(mgr):
    """The server would cut it, and find the schema of somebody else."""
    mgr.create_schema("x" * 63)
    assert not mgr.is_schema_found_on_database("x" * 64)


@pytest.mark.parametrize("name", ["%", "_", "A", "a' OR true --", ""])
def test_a_strange_name_is_not_found(mgr, name):
    mgr.create_schema("a")
    assert not mgr.is_schema_found_on_database(name)


LISTED = ["towns-basel", "towns-bern", "town_-a", "townsx-a", "t%-a", "towns", "villages-a"]


@pytest.fixture
def fleet(mgr, execute):
    for name in LISTED:
        execute(f'CREATE SCHEMA "{name}"')
    execute('CREATE SCHEMA "Upper"; CREATE SCHEMA "with space"; CREATE SCHEMA "admin"')
    execute("CREATE SCHEMA shared; CREATE SCHEMA a; CREATE TEMPORARY TABLE x (y int)")
    return mgr


def test_list_schemas(fleet):
    names = [name for name in LISTED if "%" not in name]
    assert fleet.list_schemas() == sorted([*names, "a", "admin"], key=lambda name: name.encode())


@pytest.mark.parametrize(
    ("namespace", "found"),
    [
        ("towns", ["towns-basel", "towns-bern"]),
        ("town_", ["town_-a"]),
        ("t%", []),
        ("%", []),
        ("villages", ["villages-a"]),
        ("nobody", []),
        ("tow", []),
    ],
)
def test_list_schemas_of_a_namespace(fleet, namespace, found):
    assert fleet.list_schemas(namespace) == found


def test_list_schemas_without_the_callers_reserved_ones(fleet, common_dsn, new_manager):
    mgr = new_manager(common_dsn, base_of(), reserved={"admin"}, shared_schema="a")
    assert {"admin", "a"}.isdisjoint(mgr.list_schemas())
    assert "shared" not in mgr.list_schemas()


def test_query_schemas_with_any_connection(fleet, common_dsn):
    engine = sa.create_engine(common_dsn.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert list(query_schemas(connection)) == fleet.list_schemas()
        assert list(query_schemas(connection, "towns")) == ["towns-basel", "towns-bern"]
    engine.dispose()


def test_a_schema_that_was_dropped_is_made_again_when_forgotten(mgr, execute):
    mgr.set_current_schema("a")
    execute("DROP SCHEMA a CASCADE")
    mgr.provisioner.forget("a")
    mgr.set_current_schema("a")
    assert "t" in relations(execute)


def test_a_schema_that_was_dropped_is_not_entered(mgr, execute):
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    execute("DROP SCHEMA a CASCADE; CREATE TABLE extensions.t (id int)")
    mgr.set_current_schema("a")
    with pytest.raises(SchemaNotFound, match="does not exist"):
        mgr.session().execute(sa.text("SELECT * FROM t"))


def test_a_schema_that_was_dropped_is_made_again_once_that_is_known(mgr, execute):
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    mgr.session().execute(sa.text("SELECT 1"))
    execute("DROP SCHEMA a CASCADE")
    with pytest.raises(SchemaNotFound), mgr.schema("a") as session:
        session.execute(sa.text("SELECT 1"))
    with mgr.schema("a") as session:
        assert session.execute(sa.text("SELECT * FROM t")).all() == []
