"""A new customer's schema: all of it, in one transaction, or nothing."""

from __future__ import annotations

import enum

import psycopg2.errors
import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import DDL, CheckConstraint, Column, ForeignKey, Index, Table, event
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM
from sqlalchemy.exc import OperationalError, ProgrammingError

from onegov_orm.errors import ConfigurationError, PoolExhausted
from tests.models import Base, Document
from tests.provisioning import base_of, has_schema, relations, statements_of


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


@pytest.fixture
def manager(common_dsn, new_manager):
    """Make a manager without required extensions."""

    def make(base, **options):
        mgr = new_manager(common_dsn, base, **options)
        mgr.required_extensions.clear()
        return mgr

    return make


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


# -- what is made


def test_everything_of_the_models_is_there(dsn, new_manager, outside):
    base = base_of(
        ("one", Column("two_id", ForeignKey("two.id")), Column("size", sa.Enum(Size))),
        ("two", Column("one_id", ForeignKey("one.id")), Column("size", sa.Enum(Size))),
        ("three", Column("n", sa.Integer, sa.Identity()), Column("x", sa.Text, index=True)),
        ("four", Column("n", sa.Integer, sa.Sequence("numbers")), Index("ix", "n", unique=True)),
    )
    sa.Sequence("alone", metadata=base.metadata)
    mgr = new_manager(dsn, base)
    mgr.set_current_schema("a")
    execute = outside(dsn)
    found = set(relations(execute))
    assert {"one", "two", "three", "four", "ix", "ix_three_x", "numbers", "alone"} <= found
    constraints = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
    assert execute(constraints) == [(2,)]
    assert execute("SELECT enum_range(NULL::a.size)::text") == [("{SMALL,LARGE}",)]
    assert execute("INSERT INTO a.three (x) VALUES ('x') RETURNING id, n") == [(1, 1)]


@pytest.mark.parametrize("is_live", [False, True], ids=["script", "live"])
def test_in_a_pipeline_of_psycopg(common_dsn, new_manager, is_live):
    """Where PostgreSQL takes one statement a message."""
    base = base_of(("t", Column("size", sa.Enum(Size), index=True)), ("u",))
    if is_live:
        event.listen(base.metadata, "after_create", lambda *_, **__: None)
    dsn = common_dsn.replace("postgresql", "postgresql+psycopg", 1)
    mgr = new_manager(dsn, base, pipeline=True)
    for name in ("a", "b"):
        mgr.set_current_schema(name)
        mgr.session().execute(base.metadata.tables["t"].insert().values(size=Size.SMALL))
    mgr.required_extensions.add("citext")
    mgr.set_current_schema("c")


def test_comments(manager, execute):
    base = base_of(("t", Column("x", sa.Text, comment='it\'s 100% :x; \\ "quoted"')))
    base.metadata.tables["t"].comment = "of the table; yes"
    manager(base).set_current_schema("a")
    described = execute(
        "SELECT obj_description('a.t'::regclass), col_description('a.t'::regclass, 2)"
    )
    assert described == [("of the table; yes", 'it\'s 100% :x; \\ "quoted"')]


def test_all_of_it_in_one_transaction(empty_dsn, new_manager, outside):
    mgr = new_manager(empty_dsn, Base, migrations=None)
    connections = []

    @mgr.on_schema_init.connect
    def write(schema, connection):
        connection.execute(sa.text("CREATE TABLE by_listener AS SELECT 1 AS x"))
        connections.append(connection)

    mgr.set_current_schema("a")
    sql = """
        SELECT count(DISTINCT x) FROM (
            SELECT xmin::text AS x FROM pg_namespace WHERE nspname IN ('a', 'extensions')
            UNION ALL SELECT xmin::text FROM pg_extension WHERE extname <> 'plpgsql'
            UNION ALL SELECT xmin::text FROM pg_class WHERE relnamespace = to_regnamespace('a')
        ) AS made"""
    assert outside(empty_dsn)(sql) == [(1,)]
    assert len(connections) == 1


def test_the_metadata_stays_as_it_was(manager):
    base = base_of(("t", Column("size", sa.Enum(Size))))
    table = base.metadata.tables["t"]
    mgr = manager(base)
    seen = []
    mgr.on_schema_init.connect(
        lambda *_, **__: seen.append((base.metadata.schema, table.schema)), weak=False
    )
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert seen == [(None, None)] * 2
    assert (base.metadata.schema, table.schema, table.c["size"].type.schema) == (None, None, None)
    assert list(base.metadata.tables) == ["t"]


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_percent_signs_and_colons(common_dsn, new_manager, execute, driver):
    base = base_of(
        (
            "t",
            Column("x%y", sa.Text, server_default=":x %s %(y)s %%"),
            CheckConstraint("x like 'a%'"),
        ),
        ("100%", Column("size", sa.Enum("50%", ":x", name="p%c"))),
    )
    base.metadata.tables["t"].append_column(Column("x", sa.Text))
    listed = DDL("CREATE VIEW v AS SELECT ':x' AS y, 7 %% 4 AS z WHERE 'abc' LIKE 'a%%'")
    event.listen(base.metadata, "after_create", listed)
    new_manager(common_dsn.replace("postgresql", driver, 1), base).set_current_schema("a")
    assert execute("INSERT INTO a.t (x) VALUES ('ab') RETURNING \"x%y\"") == [(":x %s %(y)s %%",)]
    assert execute("SELECT y, z FROM a.v") == [(":x", 3)]
    assert execute('SELECT enum_range(NULL::a."p%c")::text') == [("{50%,:x}",)]
    assert "100%" in relations(execute)


def test_percent_signs_in_a_literal_do_not_reach_the_applications_statements(manager):
    """The type keeps what writes its literals: it must not be shared with the script's."""
    kind = sa.String()
    base = base_of(("t", Column("x", kind), CheckConstraint(sa.column("x", kind) != "a%")))
    mgr = manager(base)
    mgr.set_current_schema("a")
    literal = sa.literal("100%", kind, literal_execute=True)
    assert mgr.session().scalar(sa.select(literal)) == "100%"


def test_names_with_quotes_spaces_and_upper_case(manager, execute):
    base = base_of(
        (
            'with "quotes"',
            Column("select", sa.Text, index=True),
            Column("UP", sa.Enum("x", name="E n")),
        ),
        ("Upper", Column("other", ForeignKey('with "quotes".id'))),
    )
    Index('ix "q"', base.metadata.tables["Upper"].c.other)
    mgr = manager(base)
    mgr.set_current_schema("a")
    assert {'with "quotes"', "Upper", 'ix "q"'} <= set(relations(execute))
    mgr.provisioner.forget("a")
    with statements_of(mgr) as sent:
        mgr.ensure_schema_exists("a")
    assert len(sent) == 1


def test_long_index_names(manager, execute):
    base = base_of(("t" * 40, Column("c" * 40, sa.Text, index=True)))
    mgr = manager(base)
    mgr.set_current_schema("a")
    assert any(name.startswith("ix_tttt") and len(name) <= 63 for name in relations(execute))
    mgr.provisioner.forget("a")
    with statements_of(mgr) as sent:
        mgr.ensure_schema_exists("a")
    assert len(sent) == 1


def test_circular_foreign_keys_without_a_warning(manager, execute):
    base = base_of(
        ("one", Column("two_id", ForeignKey("two.id", use_alter=True, name="fk_a"))),
        ("two", Column("one_id", ForeignKey("one.id")), Column("own_id", ForeignKey("two.id"))),
    )
    manager(base).set_current_schema("a")
    assert execute("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == [(3,)]


def test_an_enum_of_several_tables_is_made_once(manager, execute):
    color = sa.Enum("red", name="color")
    base = base_of(
        ("t", Column("x", color)), ("u", Column("x", color), Column("y", sa.ARRAY(color)))
    )
    sa.Enum("solo", name="of_metadata", metadata=base.metadata)
    manager(base).set_current_schema("a")
    types = "SELECT typname::text FROM pg_type WHERE typtype = 'e' ORDER BY 1"
    assert execute(types) == [("color",), ("of_metadata",)]


def test_an_enum_inside_a_decorator_and_a_domain(manager, execute):
    class Decorated(sa.TypeDecorator):
        impl = sa.Enum("x", name="inner_enum")
        cache_ok = True

    positive = DOMAIN("positive", sa.Integer, check="VALUE > 0")
    base = base_of(("t", Column("x", Decorated), Column("y", positive)))
    manager(base).set_current_schema("a")
    with pytest.raises(psycopg2.errors.CheckViolation, match="positive"):
        execute("INSERT INTO a.t (y) VALUES (-1)")


def test_an_enum_that_is_not_to_be_made(manager):
    base = base_of(("t", Column("x", ENUM("x", name="not_made", create_type=False))))
    with pytest.raises(ProgrammingError, match="not_made"):
        manager(base).set_current_schema("a")


def test_a_base_without_tables(manager):
    mgr = manager(base_of())
    heard = []
    mgr.on_schema_init.connect(lambda schema, **_: heard.append(schema), weak=False)
    mgr.set_current_schema("a")
    mgr.provisioner.forget("a")
    mgr.set_current_schema("a")
    assert heard == ["a"]


# -- several bases


def test_several_bases(manager, execute):
    mgr = manager(base_of(("t",)))
    mgr.bases.append(base_of(("u",)))
    mgr.set_current_schema("a")
    assert {"t", "u"} <= set(relations(execute))


def test_bases_that_share_an_enum_a_sequence_and_a_table(manager, execute):
    def base(name):
        made = base_of(
            (name, Column("x", sa.Enum("x", name="color"))),
            ("both", Column("x", sa.Text, index=True)),
        )
        sa.Sequence("numbers", metadata=made.metadata)
        return made

    mgr = manager(base("t"))
    mgr.bases.append(base("u"))
    mgr.set_current_schema("a")
    assert {"t", "u", "both", "ix_both_x", "numbers"} <= set(relations(execute))


def test_a_base_that_comes_later(manager, execute):
    mgr = manager(base_of(("t",)))
    heard = []
    mgr.on_schema_init.connect(lambda schema, **_: heard.append(schema), weak=False)
    mgr.set_current_schema("a")
    later = base_of(("u",))
    event.listen(later.metadata, "after_create", DDL("CREATE VIEW v AS SELECT 1 AS x"))
    mgr.bases.append(later)
    mgr.set_current_schema("a")
    assert {"t", "u", "v"} <= set(relations(execute))
    assert heard == ["a"]


def test_a_table_that_comes_later(manager, execute):
    base = base_of(("t",))
    mgr = manager(base)
    mgr.set_current_schema("a")
    Table("u", base.metadata, Column("t_id", ForeignKey("t.id")))
    mgr.set_current_schema("a")
    assert "u" in relations(execute)


def test_a_base_that_comes_while_a_schema_is_made(manager, execute):
    mgr = manager(base_of(("t",)))

    @mgr.on_schema_init.connect
    def append(schema, connection):
        if len(mgr.bases) == 1:
            mgr.bases.append(base_of(("u",)))
            mgr.ensure_schema_exists("b")

    mgr.set_current_schema("a")
    mgr.set_current_schema("a")
    assert "u" in relations(execute, "a")
    assert "u" in relations(execute, "b")


# -- existing schemas


def test_a_complete_schema_takes_one_query(manager):
    base = base_of(("t", Column("x", sa.Enum("x", name="e"), index=True)))
    manager(base).set_current_schema("a")
    mgr = manager(base)
    with statements_of(mgr) as sent:
        mgr.set_current_schema("a")
    assert len(sent) == 1


def test_a_repeated_call_sends_nothing(manager):
    mgr = manager(base_of(("t",)))
    mgr.set_current_schema("a")
    with statements_of(mgr) as sent:
        for _ in range(3):
            mgr.set_current_schema("a")
            mgr.ensure_schema_exists("a")
            with mgr.schema("a", create=False):
                pass
    assert sent == []


@pytest.mark.parametrize(
    "lost",
    [
        "DROP TABLE a.u",
        "DROP TABLE a.t CASCADE",
        "DROP INDEX a.ix_t_x",
        "DROP SEQUENCE a.numbers",
        "DROP TABLE a.t, a.u; DROP TYPE a.color",
    ],
)
def test_what_is_missing_is_made(manager, execute, lost):
    base = base_of(
        ("t", Column("x", sa.Text, index=True), Column("c", sa.Enum("x", name="color"))),
        ("u", Column("t_id", ForeignKey("t.id")), Column("x", sa.Text, comment="c")),
    )
    sa.Sequence("numbers", metadata=base.metadata)
    manager(base).set_current_schema("a")
    before = relations(execute)
    execute(lost)
    mgr = manager(base)
    mgr.set_current_schema("a")
    assert relations(execute) == before
    assert execute("SELECT count(*) FROM pg_type WHERE typname = 'color'") == [(1,)]


def test_what_is_there_stays(manager, execute):
    base = base_of(("t", Column("x", sa.Text)), ("u",))
    mgr = manager(base)
    heard = []
    mgr.on_schema_init.connect(lambda schema, **_: heard.append(schema), weak=False)
    execute("CREATE SCHEMA a; CREATE TABLE a.t (x text); INSERT INTO a.t VALUES ('kept')")
    mgr.set_current_schema("a")
    assert execute("SELECT x FROM a.t") == [("kept",)]
    assert "u" in relations(execute)
    assert heard == []


def test_an_empty_schema_is_as_good_as_new(manager, execute):
    mgr = manager(base_of(("t",)))
    heard = []
    mgr.on_schema_init.connect(lambda schema, **_: heard.append(schema), weak=False)
    mgr.create_schema("a")
    execute("CREATE TABLE a.stranger (x int); CREATE TYPE a.color AS ENUM ('x')")
    mgr.set_current_schema("a")
    assert heard == ["a"]


@pytest.mark.parametrize("elsewhere", ["public", "extensions", "other"])
def test_a_table_of_this_name_in_another_schema_does_not_count(manager, execute, elsewhere):
    base = base_of(
        ("t", Column("x", sa.Enum("x", name="e"), index=True)),
        ("u", Column("t", ForeignKey("t.id"))),
    )
    event.listen(base.metadata.tables["t"], "after_create", lambda *_, **__: None)
    execute(
        f"CREATE SCHEMA IF NOT EXISTS {elsewhere}; CREATE TYPE {elsewhere}.e AS ENUM ('y');"
        f"CREATE TABLE {elsewhere}.t (id int primary key, x text);"
        f"CREATE INDEX ix_t_x ON {elsewhere}.t (x)"
    )
    manager(base).set_current_schema("a")
    assert {"t", "ix_t_x", "u"} <= set(relations(execute))
    assert execute("SELECT confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'") == [
        ("a.t",)
    ]


# -- listeners


def test_ddl_listeners(manager, execute):
    base = base_of(("t", Column("x", sa.Text)))
    table = base.metadata.tables["t"]
    event.listen(
        base.metadata,
        "before_create",
        DDL("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    )
    event.listen(table, "before_create", DDL("CREATE SEQUENCE before_%(table)s; -- the end"))
    event.listen(
        table, "after_create", DDL("CREATE VIEW v AS SELECT f() FROM %(table)s -- the end")
    )
    event.listen(table, "after_create", DDL("nonsense").execute_if(dialect="sqlite"))
    manager(base).set_current_schema("a")
    assert {"before_t", "v"} <= set(relations(execute))


def test_function_listeners_get_the_live_connection(manager, execute):
    base = base_of(("t", Column("x", sa.Text, index=True)), ("u",))
    table, heard = base.metadata.tables["t"], []

    def listen(name):
        def listener(target, connection, **arguments):
            found = connection.scalar(sa.text("SELECT to_regclass('t') IS NOT NULL"))
            heard.append(
                (name, found, connection.scalar(sa.text("SELECT current_schema()::text")))
            )

        return listener

    for target, label in ((base.metadata, "metadata"), (table, "table")):
        for name in ("before_create", "after_create"):
            event.listen(target, name, listen(f"{label} {name}"))
    mgr = manager(base)
    mgr.set_current_schema("a")
    assert heard == [
        ("metadata before_create", False, "a"),
        ("table before_create", False, "a"),
        ("table after_create", True, "a"),
        ("metadata after_create", True, "a"),
    ]


def test_a_function_listener_can_write(dsn, new_manager, outside):
    base = base_of(("t", Column("x", sa.Text)))
    table = base.metadata.tables["t"]

    @event.listens_for(table, "after_create")
    def fill(target, connection, **arguments):
        connection.execute(target.insert(), [{"x": "100%"}, {"x": ":y"}])

    mgr = new_manager(dsn, base)
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert (
        outside(dsn)("SELECT x FROM a.t UNION ALL SELECT x FROM b.t") == [("100%",), (":y",)] * 2
    )


def test_a_function_listener_can_change_the_table(manager, execute):
    """As libraries do that make their own indexes."""
    base = base_of(("t", Column("x", sa.Text)))
    table = base.metadata.tables["t"]
    index = Index("ix", table.c.x)
    event.listen(table, "before_create", lambda *_, **__: table.indexes.discard(index))

    @event.listens_for(table, "after_create")
    def make(target, connection, **arguments):
        table.indexes.add(index)
        index.create(connection)

    manager(base).set_current_schema("a")
    mgr = manager(base)
    with statements_of(mgr) as sent:
        mgr.set_current_schema("a")
        mgr.set_current_schema("b")
    assert sum("CREATE TABLE" in statement for statement in sent) == 1
    assert "ix" in relations(execute, "b")


def test_listeners_to_all_tables(manager, execute):
    base, heard = base_of(("t",), ("u",)), []

    def listener(target, connection, **arguments):
        heard.append((target.name, connection.scalar(sa.text("SELECT 1"))))

    ddl = DDL("CREATE VIEW v_%(table)s AS SELECT 1 AS x")
    event.listen(Table, "after_create", listener)
    event.listen(Table, "after_create", ddl)
    try:
        manager(base).set_current_schema("a")
    finally:
        event.remove(Table, "after_create", listener)
        event.remove(Table, "after_create", ddl)
    assert sorted(heard) == [("t", 1), ("u", 1)]
    assert {"v_t", "v_u"} <= set(relations(execute))


def test_only_new_tables_are_announced(manager, execute):
    base, heard = base_of(("t",), ("u", Column("x", sa.Enum("x", name="e"), index=True))), []
    sa.Sequence("numbers", metadata=base.metadata)
    for table in base.metadata.tables.values():
        event.listen(table, "after_create", lambda target, *_, **__: heard.append(target.name))
    event.listen(base.metadata, "after_create", lambda *_, **__: heard.append("all"))
    manager(base).set_current_schema("a")
    assert heard == ["t", "u", "all"]
    execute("DROP TABLE a.t; DROP INDEX a.ix_u_x; DROP SEQUENCE a.numbers")
    heard.clear()
    mgr = manager(base)
    mgr.set_current_schema("a")
    assert heard == ["t"]
    assert {"t", "u", "numbers"} <= set(relations(execute))


def test_ddl_with_a_condition_asks_with_the_live_connection(manager, execute):
    base = base_of(("t",))

    def is_wanted(ddl, target, bind, **arguments):
        return bind.scalar(sa.text("SELECT current_schema()::text")) == "b"

    ddl = DDL("CREATE VIEW v AS SELECT 1 AS x").execute_if(callable_=is_wanted)
    event.listen(base.metadata, "after_create", ddl)
    mgr = manager(base)
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert "v" not in relations(execute, "a")
    assert "v" in relations(execute, "b")


def test_on_schema_init_works_in_the_new_schema(dsn, new_manager):
    mgr = new_manager(dsn, Base)

    @mgr.on_schema_init.connect
    def fill(schema, connection):
        connection.execute(sa.insert(Document.__table__).values(owner=schema, tags={"a": "b"}))

    for name in ("a", "b"):
        mgr.set_current_schema(name)
        assert mgr.session().scalars(sa.select(Document.owner)).all() == [name]


def test_on_schema_init_for_one_schema(manager):
    mgr = manager(base_of(("t",)))
    heard = []
    mgr.on_schema_init.connect_via("b")(lambda schema, **_: heard.append(schema))
    receiver = lambda schema, **_: heard.append(schema)  # noqa: E731
    mgr.on_schema_init.connect(receiver, sender="a")
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert "a" in heard


# -- failures

FAILING = "CREATE TABLE nonsense (x no_such_type)"


def test_a_failing_table_leaves_nothing(empty_dsn, new_manager, outside):
    base = base_of(("good",), ("zzz", CheckConstraint("no_such_function(1)")))
    mgr = new_manager(empty_dsn, base)
    with pytest.raises(ProgrammingError, match="no_such_function"):
        mgr.set_current_schema("a")
    execute = outside(empty_dsn)
    assert not has_schema(execute)
    assert not has_schema(execute, "extensions")
    assert execute("SELECT count(*) FROM pg_extension") == [(1,)]
    assert (mgr.current_schema, mgr.created_schemas, mgr.created_extensions) == (
        None,
        set(),
        set(),
    )


@pytest.mark.parametrize("where", ["on_schema_init", "stamp", "after_create", "ddl"])
def test_a_failure_leaves_nothing_and_the_next_try_succeeds(manager, execute, where):
    base = base_of(("t",))
    mgr = manager(base)
    fails = [True]

    def fail(*args, **kwargs):
        if fails:
            raise ValueError("not today")

    if where == "on_schema_init":
        mgr.on_schema_init.connect(fail)
    elif where == "stamp":
        mgr.provisioner.stamps.append(fail)
    elif where == "after_create":
        event.listen(base.metadata, "after_create", fail)
    else:
        failing = DDL(FAILING)
        event.listen(base.metadata, "after_create", failing)
    with pytest.raises((ValueError, ProgrammingError)):
        mgr.set_current_schema("a")
    assert not has_schema(execute)
    fails.clear()
    if where == "ddl":
        event.remove(base.metadata, "after_create", failing)
        mgr = manager(base)
    mgr.set_current_schema("a")
    assert "t" in relations(execute)


def test_a_failure_disturbs_no_other_schema(manager, execute):
    mgr = manager(base_of(("t",)))
    mgr.set_current_schema("a")
    mgr.session().execute(sa.text("INSERT INTO t VALUES (1)"))
    mgr.on_schema_init.connect(lambda schema, **_: 1 / 0, weak=False)
    with pytest.raises(ZeroDivisionError):
        mgr.set_current_schema("b")
    assert mgr.current_schema == "a"
    transaction.commit()
    assert execute("SELECT id FROM a.t") == [(1,)]
    assert not has_schema(execute, "b")


def test_a_backend_killed_on_the_way_leaves_nothing(dsn, new_manager, outside):
    mgr, execute = new_manager(dsn, Base), outside(dsn)
    kills = [True]

    @mgr.on_schema_init.connect
    def kill(schema, connection):
        if kills:
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            execute(f"SELECT pg_terminate_backend({pid}, 5000)")

    with pytest.raises(OperationalError):
        mgr.set_current_schema("a")
    assert not has_schema(execute)
    kills.clear()
    mgr.set_current_schema("a")
    assert "documents" in relations(execute)


def test_no_connection_left_is_a_clear_error(common_dsn, new_manager):
    pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    mgr = new_manager(common_dsn, Base, pool_config=pool)
    mgr.set_current_schema("a")
    mgr.session().execute(sa.select(Document))
    with pytest.raises(PoolExhausted, match='schema "a"'):
        mgr.set_current_schema("b")
    assert mgr.current_schema == "a"
    transaction.abort()
    mgr.set_current_schema("b")


def test_sessions_open_elsewhere_do_not_block(manager):
    """The tables of other customers are not locked."""
    mgr = manager(base_of(("t",)))
    mgr.set_current_schema("a")
    mgr.session().execute(sa.text("LOCK TABLE t IN ACCESS EXCLUSIVE MODE"))
    mgr.set_current_schema("b")
    assert mgr.session().scalar(sa.text("SELECT count(*) FROM t")) == 0


def test_an_enum_of_a_shared_table_needs_a_home(manager, execute):
    base = base_of()
    Table("t", base.metadata, Column("x", sa.Enum("x", name="homeless")), schema="shared")
    with pytest.raises(ConfigurationError, match=r"homeless.*schema='shared'"):
        manager(base).set_current_schema("a")
    assert not has_schema(execute)
