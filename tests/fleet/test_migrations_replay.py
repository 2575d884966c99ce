"""Revisions that are replayed do what Alembic does; those that may not be are not replayed."""

from __future__ import annotations

import pytest

from onegov_orm.fleet._migration_plans import Goal, Planner
from onegov_orm.fleet._migration_scripts import Direction, Scripts
from onegov_orm.fleet.runner import RunOptions
from tests.fleet.migrating import Towns, names, outcomes
from tests.integration.test_migrations import catalog

DDL = """
op.create_table(
    "dogs",
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.String(50), nullable=False, server_default="50% \\t: it's :x \\\\ \\\\n"),
    sa.Column("owner_id", sa.Integer, sa.ForeignKey("residents.id"), index=True),
    sa.Column("born", sa.Date, server_default=sa.text("'2020-01-01'::date")),
    sa.Column("data", sa.JSON, comment="100% it's\\there"),
    sa.Column("double", sa.Integer, sa.Computed("id * 2", persisted=True)),
    sa.CheckConstraint("name LIKE '%a%' OR name <> ''", name="named"),
    sa.UniqueConstraint("name", "born", name="uq"),
    comment="Dogs: 100%",
)
op.alter_column("residents", "age", type_=sa.BigInteger, server_default="7")
op.alter_column("residents", "owner", new_column_name="keeper", comment="who")
op.create_index("ix_lower", "residents", [sa.text("lower(keeper)")], unique=True,
    postgresql_where=sa.text("age % 2 = 0"))
op.create_check_constraint("ck_age", "residents", "age >= 0")
op.execute("CREATE VIEW old AS SELECT * FROM residents WHERE keeper LIKE '%x%' -- a comment")
op.execute("COMMENT ON VIEW old IS 'tab:\\t colon\\\\:x percent:%s %(x)s'")
"""

ENUM = """
color = sa.Enum("red", "it's 100%", name="color")
color.create(op.get_bind(), checkfirst=False)
op.add_column("residents", sa.Column("color", sa.Enum(name="color", create_type=False)
    if False else sa.dialects.postgresql.ENUM(name="color", create_type=False)))
op.create_table("cars", sa.Column("paint", sa.Enum("a", "b", name="paint")))
"""

DATA = r"""
table = sa.table("residents", sa.column("owner", sa.Text), sa.column("age", sa.Integer))
op.bulk_insert(table, [
    {"owner": "O'Hara 100% \t : :x \\ %s %(a)s", "age": 1}, {"owner": None, "age": None},
])
op.execute(table.insert().values(owner="ü\n%", age=3))
op.execute(table.update().where(table.c.age == 3).values(age=4))
op.execute(table.delete().where(table.c.owner.in_(["a", "b'"])))
op.execute(sa.text("UPDATE residents SET owner = :o WHERE age = 1").bindparams(o="it's :y %"))
op.execute("UPDATE residents SET owner = current_schema() || '\t100%' WHERE age IS NULL")
op.get_bind().execute(sa.text("INSERT INTO residents (owner) SELECT current_schema()"))
"""

BATCH = """
with op.batch_alter_table("residents") as batch:
    batch.add_column(sa.Column("shoe", sa.Numeric(4, 1)))
    batch.drop_column("age")
"""

FUNCTION = '''
op.execute("""
    CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN RETURN n * 2; END $$
""")
'''

LOOKING = """
count = op.get_bind().execute(sa.text("SELECT count(*) FROM residents")).scalar()
op.add_column("residents", sa.Column(f"after_{count}", sa.Integer))
"""

KINDS = {
    "ddl": DDL,
    "enum": ENUM,
    "data": DATA,
    "batch": BATCH,
    "function": FUNCTION,
    "looking": LOOKING,
}
REPLAYED = {"ddl", "enum", "data", "batch"}

#: What makes a revision live: the reason, more imports, the revision.
LIVE = {
    "scalar": ("reads a result", "", 'op.get_bind().execute(sa.text("SELECT 1")).scalar()'),
    "iteration": ("reads a result", "", 'list(op.get_bind().execute(sa.text("SELECT 1")))'),
    "truth": ("reads a result", "", 'bool(op.get_bind().execute(sa.text("SELECT 1")))'),
    "inspector": ("connection", "", "sa.inspect(op.get_bind())"),
    "driver": ("exec_driver_sql", "", 'op.get_bind().exec_driver_sql("SELECT 1")'),
    "options": ("options", "", 'op.execute("SELECT 1", execution_options={"x": 1})'),
    "checkfirst": (
        "whether something exists",
        "",
        'sa.Enum("a", name="e").create(op.get_bind(), checkfirst=True)',
    ),
    "session": ("Session", "from sqlalchemy.orm import Session", "Session(op.get_bind())"),
    "uuid": ("uuid", "import uuid", "op.execute(f\"SELECT '{uuid.uuid4()}'\")"),
    "clock": ("datetime", "from datetime import datetime", "pass"),
    "own module": ("tests", "from tests import models", "pass"),
    "relative": ("imports .", "if 0:\n    from . import x", "pass"),
    "file": ("open", "", 'open("/dev/null").close()'),
    "engine": ("create_engine", "", 'sa.create_engine("postgresql://")'),
    "autocommit": ("outside", "", "with op.get_context().autocommit_block():\n    pass"),
    "settings": ("settings", "", 'op.execute("SET search_path TO public")'),
    "commit": ("transaction", "", 'op.execute("COMMIT")'),
    "bytes": (
        "bytes",
        "",
        'op.execute(sa.text("SELECT :x").bindparams(x=b"x"))',
    ),
    "parameters": (
        "parameters",
        "",
        'op.get_bind().execute(sa.text("SELECT :x"), {"x": 1})',
    ),
    "default": (
        "in Python",
        "",
        """op.execute(
            sa.Table("t", sa.MetaData(), sa.Column("x", sa.Integer, default=id)).insert().values()
        )""",
    ),
    "versions": ("versions", "", "op.get_context().get_current_heads()"),
    "schema": (
        "-x",
        "from alembic import context",
        'context.get_x_argument(as_dictionary=True)["schema"]',
    ),
    "swallowed": (
        "connection",
        "",
        "try:\n    op.get_bind().scalar('x')\nexcept Exception:\n    pass",
    ),
    "another each time": (
        "something else",
        "state = []",
        'state.append(1)\nop.execute(f"SELECT {len(state)}")',
    ),
    "address": ("something else", "", 'op.execute(f"SELECT {id(object())} -- {object()}")'),
}


@pytest.fixture
def towns(common_dsn, new_manager, outside, tmp_path):
    return Towns(common_dsn, new_manager, outside(common_dsn), tmp_path / "migrations")


def move_of(towns):
    """Return how a schema gets from base to the newest revision."""
    scripts = Scripts(towns.environment.folder)
    with towns.context.connected() as connection:
        dialect = connection.dialect
    return Planner(scripts, Goal(Direction.UPGRADE, "heads"), dialect, True).move(frozenset())


def rows(towns, schema):
    """Return what the residents of a schema are, without the schema's name."""
    found = towns.execute(f'SELECT to_jsonb(r) - $$id$$ FROM "{schema}".residents r ORDER BY id')
    return str(found).replace(schema, "?")


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_revision_makes_what_alembic_makes(towns, kind):
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, KINDS[kind])
    assert (move_of(towns).recorded is not None) == (kind in REPLAYED)
    assert towns.migrations.migrate(schemas=["towns-a"]).is_ok
    assert towns.migrations.migrate(schemas=["towns-b"], replay=False).is_ok
    assert catalog(towns.execute, "towns-a") == catalog(towns.execute, "towns-b")
    assert rows(towns, "towns-a") == rows(towns, "towns-b")


@pytest.mark.parametrize("replay", [True, False])
def test_every_driver_and_server(dsn, new_manager, outside, tmp_path, replay):
    towns = Towns(dsn, new_manager, outside(dsn), tmp_path / "migrations")
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, DATA, 'op.execute("DELETE FROM residents")')
    towns.environment.add("two", "one", DDL, 'op.drop_table("dogs")')
    options = RunOptions(workers=1)
    assert towns.migrations.migrate(replay=replay, options=options).is_ok
    assert rows(towns, "towns-a") == rows(towns, "towns-b")
    assert towns.migrations.downgrade("-1", replay=replay, options=options).is_ok
    assert towns.versions("towns-b") == ["one"]


@pytest.mark.parametrize("kind", LIVE)
def test_what_has_to_be_live(towns, kind):
    reason, imports, upgrade = LIVE[kind]
    towns.environment.add("one", None, upgrade, imports=imports)
    move = move_of(towns)
    assert move.recorded is None
    assert reason in move.reason


@pytest.mark.parametrize("option", ["on_version_apply=print", "transaction_per_migration=True"])
def test_options_that_have_to_be_live(towns, option):
    towns.environment.add("one", None)
    towns.environment.configure(f", {option}")
    assert option.partition("=")[0] in move_of(towns).reason


def test_the_own_statements_of_rows_with_a_uuid_differ(towns):
    towns.create("towns-a", "towns-b")
    upgrade = """
    op.add_column("residents", sa.Column("key", sa.Text))
    op.execute(f"UPDATE residents SET key = '{uuid.uuid4()}'")
    """
    towns.environment.add("one", None, upgrade, imports="import uuid")
    assert towns.migrations.migrate(options=RunOptions(workers=1)).is_ok
    assert towns.column("towns-a", "key") != towns.column("towns-b", "key")


@pytest.mark.parametrize("replay", [True, False])
def test_eight_threads_never_mix_schemas(towns, replay):
    towns.create(*names(24 if replay else 10))
    upgrade = """
    op.add_column("residents", sa.Column("seen", sa.Text))
    op.execute("UPDATE residents SET seen = owner || ' in ' || current_schema()")
    op.execute("INSERT INTO residents (owner, seen) SELECT current_schema(), max(seen)"
        " FROM residents")
    """
    towns.environment.add("one", None, upgrade)
    options = RunOptions(workers=8 if replay else 3)
    report = towns.migrations.migrate(options=options, replay=replay)
    assert set(outcomes(report).values()) == {"done"}
    for schema in outcomes(report):
        assert towns.column(schema, "owner") == [schema, schema]
        assert towns.column(schema, "seen") == [f"{schema} in {schema}"] * 2


def test_recording_leaves_no_trace(towns):
    towns.environment.add("one", None, DDL)
    assert len(move_of(towns).recorded[0].statements) > 8
    assert towns.execute("SELECT 1 FROM pg_class WHERE relname = 'dogs'") == []


def test_a_constraint_of_the_transactions_end(towns):
    towns.create("towns-a")
    towns.execute("INSERT INTO \"towns-a\".residents (owner) VALUES ('towns-a')")
    upgrade = """
    op.execute("ALTER TABLE residents ADD CONSTRAINT uq UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
    op.execute("UPDATE residents SET id = 1")
    """
    towns.environment.add("one", None, upgrade)
    [result] = towns.migrations.migrate().results
    assert result.error.startswith("UniqueViolation")
    assert towns.execute('SELECT count(DISTINCT id) FROM "towns-a".residents') == [(2,)]


def test_a_dry_run_shows_what_would_be_done(towns):
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, DATA)
    towns.environment.add("two", "one", DDL)
    sql = towns.migrations.sql("heads", "towns-a")
    assert towns.columns("towns-a") == {"id", "owner", "age"}
    assert "-- one" in sql
    assert "-- two" in sql
    towns.execute(sql)
    assert towns.versions("towns-a") == ["two"]
    assert towns.migrations.migrate().is_ok
    assert catalog(towns.execute, "towns-a") == catalog(towns.execute, "towns-b")
    assert towns.migrations.sql("heads", "towns-a") == ""


def test_a_dry_run_of_what_is_live(towns):
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, FUNCTION)
    sql = towns.migrations.sql("heads", "towns-a")
    towns.execute(sql)
    assert towns.migrations.migrate().is_ok
    assert catalog(towns.execute, "towns-a") == catalog(towns.execute, "towns-b")


def test_a_dry_run_of_what_has_to_look(towns):
    from onegov_orm.errors import MigrationError

    towns.create("towns-a")
    towns.environment.add("one", None, LOOKING)
    with pytest.raises(MigrationError, match="reads a result"):
        towns.migrations.sql("heads", "towns-a")
