from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from onegov_orm import (
    ConfigurationError,
    CopyFailed,
    ForeignSchema,
    InvalidSchemaName,
    PermissionDenied,
    PointsBack,
    SchemaExists,
    SchemaNotFound,
    SessionManager,
    TooManyLocks,
    UncloneableObject,
)
from onegov_orm._sql import quote_identifier
from onegov_orm.fleet import cloning
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.cloning import clone
from onegov_orm.fleet.fingerprints import fingerprints
from tests.fleet.kitchen import (
    ROLES,
    Execute,
    context_of,
    cook,
    make_customer,
    rows_of,
    schemas_of,
)

NewManager = Callable[..., SessionManager]
Outside = Callable[[str], Execute]


def fingerprints_of(context: FleetContext, *schemas: str) -> set[str]:
    with context.connected() as connection, connection.begin():
        found = fingerprints(connection, schemas)
    assert len(found) == len(schemas)
    return set(found.values())


@pytest.fixture
def execute(plain_dsn: str, outside: Outside) -> Execute:
    return outside(plain_dsn)


@pytest.fixture
def context(plain_dsn: str, new_manager: NewManager) -> FleetContext:
    return context_of(new_manager, plain_dsn)


@pytest.fixture
def kitchen(execute: Execute) -> Execute:
    cook(execute, "towns-bern")
    return execute


def test_a_clone_equals_its_original(dsn: str, outside: Outside, new_manager: NewManager) -> None:
    execute, context = outside(dsn), context_of(new_manager, dsn)
    cook(execute, "towns-bern")
    rows = rows_of(execute, "towns-bern")
    clone(context, "towns-bern", "user")
    assert len(fingerprints_of(context, "towns-bern", "user")) == 1
    assert rows_of(execute, "user") == rows
    assert rows_of(execute, "towns-bern") == rows


def test_the_clone_of_a_clone_outlives_both_originals(
    kitchen: Execute, context: FleetContext
) -> None:
    rows = rows_of(kitchen, "towns-bern")
    original = fingerprints_of(context, "towns-bern")
    clone(context, "towns-bern", "user")
    kitchen('DROP SCHEMA "towns-bern" CASCADE')
    clone(context, "user", "a")
    kitchen('DROP SCHEMA "user" CASCADE')
    assert fingerprints_of(context, "a") == original
    assert rows_of(kitchen, "a") == rows


def test_original_and_clone_go_their_own_ways(kitchen: Execute, context: FleetContext) -> None:
    clone(context, "towns-bern", "a")
    logs = {}
    for schema in ("towns-bern", "a"):
        before = rows_of(kitchen, "a" if schema == "towns-bern" else "towns-bern")
        kitchen(
            f"SET search_path TO {quote_identifier(schema)}, extensions;"
            "INSERT INTO people (name) VALUES ('new'); INSERT INTO animals VALUES (9, 'ape');"
            "INSERT INTO tree (person_id) VALUES (100);"
            "INSERT INTO events VALUES (3, '2010-01-01');"
            "INSERT INTO catalog (relname) VALUES ('by trigger'); DELETE FROM nothing;"
            "REFRESH MATERIALIZED VIEW totals; CALL add_tree(105);"
            "SET CONSTRAINTS ALL IMMEDIATE; RESET search_path"
        )
        quoted = quote_identifier(schema)
        logs[schema] = kitchen(f"SELECT owner, what FROM {quoted}.log ORDER BY id")
        assert rows_of(kitchen, "a" if schema == "towns-bern" else "towns-bern") == before
        assert kitchen(f"SELECT owner, numbered FROM {quoted}.people WHERE name = 'new'")
        assert {owner for owner, _ in logs[schema][-4:]} == {schema}
    assert len(logs["a"]) == len(logs["towns-bern"])
    assert logs["a"][-1] == ("a", logs["towns-bern"][-1][1].replace("towns-bern", "a"))


def test_sequences_go_on_where_the_original_stands(
    kitchen: Execute, context: FleetContext
) -> None:
    clone(context, "towns-bern", "a")
    # A connection keeps some numbers for itself.
    kitchen("DISCARD SEQUENCES")
    for sequence in (
        "numbers",
        "people_id_seq",
        "people_serial_seq",
        '"Odd ""Seq"""',
        "tree_id_seq",
    ):
        ((own,),) = kitchen(f"SELECT nextval('a.{sequence}')")
        ((original,),) = kitchen(f"""SELECT nextval('"towns-bern".{sequence}')""")
        assert own == original


def test_a_clone_without_data_knows_its_revision(execute: Execute, context: FleetContext) -> None:
    make_customer(
        execute,
        "a",
        """
        CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('abc');
        CREATE TABLE upgrades (module text); INSERT INTO upgrades VALUES ('towns');
        CREATE TABLE people (id serial); INSERT INTO people VALUES (DEFAULT);
        CREATE MATERIALIZED VIEW many AS SELECT count(*) FROM people;
    """,
    )
    clone(context, "a", "b", data=False)
    assert rows_of(execute, "b") == {
        "alembic_version": ["(abc)"],
        "upgrades": ["(towns)"],
        "people": [],
        "people_id_seq": ["1|false"],
        "many": ["(0)"],
    }
    assert len(fingerprints_of(context, "a", "b")) == 1


def test_a_clone_has_a_mark_of_its_own(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a")
    clone(context, "a", "b")
    mark = context.customer("b").mark
    assert mark.note == "cloned from a"
    assert mark.created is not None


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("a", "a", ConfigurationError),
        ("a", "b", SchemaExists),
        ("nobody", "c", SchemaNotFound),
        ("foreign", "c", ForeignSchema),
        ("a", "public", InvalidSchemaName),
        ("Bad", "c", InvalidSchemaName),
    ],
)
def test_what_is_refused(
    execute: Execute, context: FleetContext, source: str, target: str, error: type[Exception]
) -> None:
    make_customer(execute, "a", "CREATE TABLE t ()")
    make_customer(execute, "b")
    execute("""CREATE SCHEMA "foreign"; COMMENT ON SCHEMA "foreign" IS 'mine'""")
    before = schemas_of(execute)
    with pytest.raises(error):
        clone(context, source, target)
    assert schemas_of(execute) == before


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("CREATE OPERATOR === (leftarg = integer, rightarg = integer, function = int4eq)", "==="),
        ("CREATE COLLATION german (provider = libc, locale = 'C')", "german"),
        ("CREATE TEXT SEARCH CONFIGURATION words (copy = pg_catalog.simple)", "words"),
        ("CREATE TEXT SEARCH DICTIONARY nouns (template = pg_catalog.simple)", "nouns"),
        (("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
         "CREATE FOREIGN TABLE far (a integer) SERVER s"), "far"),
        ("CREATE TYPE shell", "shell"),
        ("CREATE EXTENSION citext", "citext"),
        (("CREATE TYPE pair AS (a integer); CREATE FUNCTION as_text(pair) RETURNS text LANGUAGE sql"  # noqa: E501
         " RETURN ($1).a::text; CREATE CAST (pair AS text) WITH FUNCTION as_text(pair)"), "pair"),
        ("CREATE CONVERSION mine FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", "mine"),
        (("CREATE TABLE parent (a integer); CREATE TABLE child (b integer) INHERITS (parent);"
         "ALTER TABLE parent ADD COLUMN c integer"), "child"),
        (("CREATE TABLE p (a integer) PARTITION BY LIST (a);"
         "CREATE TABLE public.part PARTITION OF p FOR VALUES IN (1)"), "part"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(
    execute: Execute, context: FleetContext, script: str, named: str
) -> None:
    make_customer(execute, "towns-bern", script)
    with pytest.raises(UncloneableObject) as caught:
        clone(context, "towns-bern", "b")
    assert named in str(caught.value)
    assert schemas_of(execute) >= {"towns-bern"}
    assert "b" not in schemas_of(execute)


BACK_POINTING = [
    """CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {quoted}.people'""",  # noqa: E501
    """CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('DELETE FROM %I.%I', '{name}', 'people'); END $$""",
    """CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('search_path', '{name}, extensions', true); END $$""",
    """CREATE FUNCTION f() RETURNS text LANGUAGE sql SET search_path TO {quoted}
        AS 'SELECT name FROM people'""",
    """CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        SET LOCAL search_path TO {quoted}; END $$""",
    """CREATE TABLE t (a bigint DEFAULT nextval('{quoted}.numbers'::text))""",
    """CREATE VIEW v AS SELECT to_regclass('{quoted}.people') AS a""",
    """CREATE TABLE t (a text CHECK (a <> '{quoted}.numbers'))""",
    """CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM {upper} . "people"; END $$""",
    """CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE 'DELETE FROM ' || quote_ident('{name}') || '.people'; END $$""",
]  # fmt: skip


@pytest.mark.parametrize("script", BACK_POINTING)
@pytest.mark.parametrize("schema", ["towns-bern", "user", "a"])
def test_what_names_the_original_is_refused(
    execute: Execute, context: FleetContext, script: str, schema: str
) -> None:
    quoted = quote_identifier(schema)
    upper = quoted if schema != "a" else "A"
    made = script.format(quoted=quoted, name=schema, upper=upper)
    make_customer(
        execute, schema, "CREATE TABLE people (name text); CREATE SEQUENCE numbers;" + made
    )
    with pytest.raises(PointsBack, match=r"f\(\)|t\.a|view v|t_a_check"):
        clone(context, schema, "b")
    assert "b" not in schemas_of(execute)


def test_names_that_only_look_like_the_schema_are_fine(
    execute: Execute, context: FleetContext
) -> None:
    make_customer(
        execute,
        "a",
        r"""
        CREATE TABLE a (a integer, people text DEFAULT 'a', mail text DEFAULT 'a.b@example.org');
        CREATE TABLE people (a integer);
        INSERT INTO a VALUES (1), (2);
        CREATE VIEW v AS SELECT a.people, a.a FROM a JOIN people AS p ON p.a = a.a;
        CREATE FUNCTION mine() RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN RETURN (SELECT a.mail FROM a WHERE a.mail <> 'a' LIMIT 1); END $$;
        CREATE INDEX on_a ON a ((a.people || 'a.')) WHERE a.people <> ' ON a.t USING ';
    """,
    )
    clone(context, "a", "b")
    execute("DROP SCHEMA a CASCADE; SET search_path TO b")
    assert execute("SELECT mine()") == [("a.b@example.org",)]


def test_what_points_back_in_secret_is_found_in_the_end(
    execute: Execute, context: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of defence, with a blueprint that names the original."""
    make_customer(execute, "a", "CREATE TABLE t (id integer); CREATE VIEW v AS SELECT * FROM t")
    read = cloning.read_blueprint

    def wrong(connection: Any, schema: Any) -> Any:
        connection.exec_driver_sql("SELECT")
        blueprint = read(connection, schema)
        text = repr(blueprint).replace("FROM t", "FROM a.t")
        names = vars(__import__("onegov_orm.fleet.blueprint", fromlist=["x"]))
        return eval(text, dict(names))

    monkeypatch.setattr(cloning, "read_blueprint", wrong)
    with pytest.raises(PointsBack, match=r"view b\.v|rule _RETURN"):
        clone(context, "a", "b")
    assert "b" not in schemas_of(execute)


def test_a_copy_that_differs_is_refused(
    execute: Execute, context: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer PRIMARY KEY)")
    make = cloning.make

    def forgetful(connection: Any, schema: Any, pieces: Any) -> None:
        make(connection, schema, [each for each in pieces if each.kind != "constraint"])

    monkeypatch.setattr(cloning, "make", forgetful)
    with pytest.raises(CopyFailed, match=r"constraint t\.t_pkey"):
        clone(context, "a", "b")
    assert "b" not in schemas_of(execute)


def test_what_the_server_refuses_names_the_object(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (-1)")
    execute("ALTER TABLE a.t ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
    # The rows are copied first, and what is not valid for them is not checked.
    clone(context, "a", "b")
    execute("UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive'")
    with pytest.raises(CopyFailed, match=r"t\.positive .*violated"):
        clone(context, "a", "c")
    assert "c" not in schemas_of(execute)


def test_a_schema_larger_than_the_lock_table_is_refused_beforehand(
    execute: Execute, context: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer PRIMARY KEY, t text)")
    monkeypatch.setattr(cloning._sql_cloning, "LOCK_ROOM", "SELECT 1, 5")
    with pytest.raises(TooManyLocks, match="max_locks_per_transaction to 64"):
        clone(context, "a", "b")
    assert "b" not in schemas_of(execute)


def test_about_as_many_locks_are_taken_as_expected(
    kitchen: Execute, context: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    def count(connection: Any, *_: Any) -> None:
        # Several modes of a lock on the same thing take room once.
        sql = (
            "SELECT count(DISTINCT (locktype, relation, classid, objid)) FROM pg_catalog.pg_locks"
            " WHERE pid = pg_backend_pid() AND NOT fastpath"
        )
        counted.append(connection.exec_driver_sql(sql).scalar())
        counted.append(sum(cloning.locks_of(connection, "towns-bern")))

    monkeypatch.setattr(cloning, "make_owners", count)
    clone(context, "towns-bern", "b")
    taken, expected = counted
    assert taken <= expected <= 2 * taken


def test_writers_do_not_wait_and_the_snapshot_is_one(
    execute: Execute,
    context: FleetContext,
    plain_dsn: str,
    outside: Outside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (1)")
    make = cloning.make

    def with_a_writer(*args: Any) -> None:
        execute("INSERT INTO a.t VALUES (2)")
        make(*args)

    monkeypatch.setattr(cloning, "make", with_a_writer)
    clone(context, "a", "b")
    assert execute("SELECT id FROM b.t") == [(1,)]


def test_what_holds_the_lock_of_the_original_is_waited_for(
    execute: Execute, context: FleetContext, plain_dsn: str, outside: Outside
) -> None:
    from onegov_orm.provisioning import lock_key

    make_customer(execute, "a", "CREATE TABLE t (id integer)")
    other = outside(plain_dsn)
    other(
        f"BEGIN; SELECT pg_advisory_xact_lock({lock_key('schema a')});"
        "ALTER TABLE a.t ADD COLUMN later integer; INSERT INTO a.t VALUES (1, 2)"
    )
    thread = threading.Thread(target=clone, args=(context, "a", "b"))
    thread.start()
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not execute(waiting):
        pass
    other("COMMIT")
    thread.join()
    assert execute("SELECT id, later FROM b.t") == [(1, 2)]


PLAIN = """
DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""


def test_no_superuser_is_needed(
    databases: Any, database: str, outside: Outside, new_manager: NewManager, driver: str
) -> None:
    admin = outside(databases.server.dsn(database, tcp=False))
    admin(
        PLAIN + f"GRANT CREATE ON DATABASE {database} TO plain;"
        "GRANT USAGE ON SCHEMA extensions TO plain"
    )
    url = databases.server.dsn(database, driver=driver, tcp=False).replace("postgres@", "plain@")
    execute, context = outside(url), context_of(new_manager, url)
    admin(
        "CREATE SCHEMA shared AUTHORIZATION plain; CREATE TABLE shared.countries"
        " (code text PRIMARY KEY, name text); ALTER TABLE shared.countries OWNER TO plain;"
        "INSERT INTO shared.countries VALUES ('ch'), ('li')"
    )
    admin(ROLES)
    cook(execute, "towns-bern")
    clone(context, "towns-bern", "a")
    assert len(fingerprints_of(context, "towns-bern", "a")) == 1
    assert rows_of(admin, "a") == rows_of(admin, "towns-bern")


def test_rows_hidden_by_row_security_are_never_lost(
    execute: Execute, plain_dsn: str, outside: Outside, new_manager: NewManager
) -> None:
    database = execute("SELECT current_database()")[0][0]
    execute(PLAIN + f"GRANT CREATE ON DATABASE {database} TO plain")
    url = plain_dsn.replace("postgres@", "plain@")
    plain, context = outside(url), context_of(new_manager, url)
    make_customer(
        plain,
        "a",
        "CREATE TABLE t (id integer); INSERT INTO t VALUES (1), (2);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id = 1)",
    )
    clone(context, "a", "b")
    assert execute("SELECT id FROM b.t") == [(1,), (2,)]
    plain("ALTER TABLE a.t FORCE ROW LEVEL SECURITY")
    with pytest.raises(PermissionDenied, match='ALTER ROLE "plain" BYPASSRLS'):
        clone(context, "a", "c")
    execute("ALTER ROLE plain BYPASSRLS")
    try:
        clone(context, "a", "c")
        assert execute("SELECT id FROM c.t") == [(1,), (2,)]
    finally:
        execute("ALTER ROLE plain NOBYPASSRLS")


def test_owners_stay_where_they_may_be_set(execute: Execute, context: FleetContext) -> None:
    execute(PLAIN)
    make_customer(
        execute,
        "a",
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE TYPE c AS ENUM ();"
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql RETURN 1;"
        "ALTER TABLE t OWNER TO plain; ALTER TYPE c OWNER TO plain;"
        "ALTER FUNCTION f() OWNER TO plain; GRANT SELECT ON t TO PUBLIC",
    )
    execute("ALTER SCHEMA a OWNER TO plain")
    clone(context, "a", "b")
    owners = (
        "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'b'::regnamespace"
        " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'b'::regnamespace"
        " UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'b'"
    )
    assert execute(owners) == [("plain",)]
    assert len(fingerprints_of(context, "a", "b")) == 1


def test_default_privileges_of_the_owner_do_not_widen_those_of_a_clone(
    execute: Execute, context: FleetContext
) -> None:
    execute(PLAIN)
    make_customer(
        execute,
        "a",
        "CREATE TABLE t (id serial); CREATE TYPE c AS ENUM ();"
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql RETURN 1",
    )
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES"):
        execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO plain")
    clone(context, "a", "b")
    readable = (
        "SELECT has_table_privilege('plain', 'b.t', 'SELECT'),"
        " has_sequence_privilege('plain', 'b.t_id_seq', 'USAGE'),"
        " has_function_privilege('plain', 'b.f()', 'EXECUTE')"
    )
    assert execute(readable) == [(False, False, True)]
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES"):
        execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM plain")


def test_a_session_works_in_the_clone_at_once(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (1)")
    with pytest.raises(SchemaNotFound), context.manager.schema("b", create=False):
        pass
    clone(context, "a", "b")
    with context.manager.schema("b", create=False) as session:
        assert session.connection().exec_driver_sql("SELECT id FROM t").all() == [(1,)]
