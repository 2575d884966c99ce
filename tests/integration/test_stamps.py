"""New schemas are at the newest revision of the migrations."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.util import CommandError

from tests.provisioning import base_of, has_schema, statements_of

REVISION = '''"""A revision."""
revision = {revision!r}
down_revision = {down!r}
def upgrade(): pass
def downgrade(): pass
'''


@pytest.fixture
def migrations(tmp_path):
    (tmp_path / "env.py").write_text("raise RuntimeError('not needed')")
    (tmp_path / "script.py.mako").write_text("")
    (tmp_path / "versions").mkdir()

    def add(revision, down):
        path = tmp_path / "versions" / f"{revision}.py"
        path.write_text(REVISION.format(revision=revision, down=down))

    add("one", None)
    add("two", "one")
    return tmp_path, add


def versions(execute, schema="a"):
    return execute(f"SELECT version_num FROM {schema}.alembic_version ORDER BY 1")


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


def test_a_new_schema_is_stamped(dsn, new_manager, outside, migrations):
    path, _ = migrations
    mgr = new_manager(dsn, base_of(("t",)), migrations=path)
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert versions(outside(dsn)) == versions(outside(dsn), "b") == [("two",)]
    with mgr.schema("a") as session:
        context = MigrationContext.configure(session.connection())
        assert context.get_current_heads() == ("two",)


def test_the_table_is_what_alembic_makes(common_dsn, new_manager, execute, migrations):
    new_manager(common_dsn, base_of(("t",)), migrations=str(migrations[0])).set_current_schema("a")
    execute("CREATE SCHEMA b; SET search_path TO b")
    engine = sa.create_engine(common_dsn)
    with engine.begin() as connection:
        options = {"version_table_schema": "b"}
        MigrationContext.configure(connection, opts=options)._ensure_version_table()
    engine.dispose()
    described = [
        execute(
            "SELECT attname, atttypid, atttypmod, attnotnull, conname, contype"
            " FROM pg_attribute LEFT JOIN pg_constraint ON conrelid = attrelid AND contype = 'p'"
            f" WHERE attrelid = '{schema}.alembic_version'::regclass AND attnum > 0"
        )
        for schema in ("a", "b")
    ]
    assert described[0] == described[1]


def test_several_heads(common_dsn, new_manager, execute, migrations):
    path, add = migrations
    add("three", "one")
    new_manager(common_dsn, base_of(("t",)), migrations=path).set_current_schema("a")
    assert versions(execute) == [("three",), ("two",)]


def test_no_revision_yet(common_dsn, new_manager, execute, tmp_path):
    (tmp_path / "versions").mkdir()
    new_manager(common_dsn, base_of(("t",)), migrations=tmp_path).set_current_schema("a")
    assert versions(execute) == []


def test_an_existing_schema_is_not_stamped(common_dsn, new_manager, execute, migrations):
    execute("CREATE SCHEMA a; CREATE TABLE a.t (id int)")
    base = base_of(("t",), ("u",))
    new_manager(common_dsn, base, migrations=migrations[0]).set_current_schema("a")
    assert execute("SELECT to_regclass('a.alembic_version')::text") == [(None,)]


def test_what_an_empty_schema_was_stamped_with_before(
    common_dsn, new_manager, execute, migrations
):
    execute(
        "CREATE SCHEMA a; CREATE TABLE a.alembic_version (version_num varchar(32) primary key);"
        "INSERT INTO a.alembic_version VALUES ('one'), ('two')"
    )
    new_manager(common_dsn, base_of(("t",)), migrations=migrations[0]).set_current_schema("a")
    assert versions(execute) == [("two",)]


def test_a_table_of_this_name_in_another_schema_is_left_alone(
    common_dsn, new_manager, execute, migrations
):
    execute("CREATE TABLE extensions.alembic_version (version_num text)")
    new_manager(common_dsn, base_of(("t",)), migrations=migrations[0]).set_current_schema("a")
    assert versions(execute, "extensions") == []
    assert versions(execute) == [("two",)]


def test_a_wrong_folder_makes_nothing(common_dsn, new_manager, execute, tmp_path):
    mgr = new_manager(common_dsn, base_of(("t",)), migrations=tmp_path / "nowhere")
    with pytest.raises(CommandError, match="nowhere"):
        mgr.set_current_schema("a")
    assert not has_schema(execute)


def test_a_known_schema_costs_nothing(common_dsn, new_manager, migrations):
    mgr = new_manager(common_dsn, base_of(("t",)), migrations=migrations[0])
    mgr.set_current_schema("a")
    with statements_of(mgr) as sent:
        mgr.set_current_schema("a")
    assert sent == []
