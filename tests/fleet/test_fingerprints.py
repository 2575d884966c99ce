"""Fingerprints: equal for equal schemas of any name, and another one after any change."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine

from onegov_orm._sql import quote_identifier, set_local_search_path
from onegov_orm._statements import Effects, effects_of
from onegov_orm.errors import PermissionDenied, SchemaNotFound
from onegov_orm.fleet import _sql_fingerprints
from onegov_orm.fleet.fingerprints import Item, fingerprints, structure, structures
from tests.models import Base

#: Some of everything. ``{name}`` is the schema's quoted name, which some texts contain.
SCRIPT = """
CREATE TYPE color AS ENUM ('red', 'green', 'blue');
CREATE TYPE place AS (street text, number integer);
CREATE DOMAIN zip AS text COLLATE "C" DEFAULT '8000'
    CONSTRAINT zip_is_short CHECK (length(VALUE) < 10);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE COLLATION by_bytes (locale = 'POSIX');
CREATE TEXT SEARCH CONFIGURATION plain (PARSER = default);
ALTER TEXT SEARCH CONFIGURATION plain ADD MAPPING FOR word WITH simple;
CREATE TEXT SEARCH DICTIONARY short (TEMPLATE = simple, accept = true);
CREATE SEQUENCE numbers START 5;
CREATE TABLE parents (
    id serial PRIMARY KEY,
    code text UNIQUE,
    name varchar(50) COLLATE by_bytes NOT NULL DEFAULT 'x',
    shade color DEFAULT 'red',
    home place,
    zip zip,
    number integer DEFAULT nextval('numbers'),
    always integer GENERATED ALWAYS AS IDENTITY,
    twice integer GENERATED ALWAYS AS (number * 2) STORED,
    tags extensions.hstore,
    during tstzrange,
    CONSTRAINT number_is_positive CHECK (number > 0)
);
CREATE TABLE documents (
    id integer PRIMARY KEY,
    documents integer,
    parent_id integer REFERENCES parents ON DELETE CASCADE,
    "Title" text,
    content jsonb,
    valid int4range,
    EXCLUDE USING gist (parent_id WITH =, valid WITH &&)
) WITH (fillfactor = 90);
CREATE INDEX ix_title ON documents (lower("Title")) WHERE parent_id > 3;
CREATE INDEX ix_content ON documents USING gin (content jsonb_path_ops);
CREATE STATISTICS related (dependencies) ON parent_id, documents FROM documents;
CREATE TABLE parted (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE root (x integer);
CREATE TABLE leaf (y integer) INHERITS (root);
CREATE UNLOGGED TABLE fleeting (x integer);
CREATE FUNCTION double(x integer, y integer DEFAULT 2) RETURNS integer LANGUAGE sql IMMUTABLE
    AS 'SELECT x * y';
CREATE FUNCTION shade_of(id integer) RETURNS color LANGUAGE sql STABLE
    SET search_path TO {name}, extensions
    AS $$ SELECT documents.shade FROM {name}.parents AS documents WHERE documents.id = $1 $$;
CREATE FUNCTION atomic(x integer) RETURNS SETOF documents LANGUAGE sql
    BEGIN ATOMIC SELECT documents.* FROM documents WHERE documents.id = x; END;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NEW.id := {name}.double(NEW.id); RETURN NEW; END';
CREATE PROCEDURE clear() LANGUAGE sql AS 'DELETE FROM fleeting';
CREATE AGGREGATE sum_of(integer) (SFUNC = double, STYPE = integer, INITCOND = '0');
CREATE OPERATOR <=#=> (FUNCTION = double, LEFTARG = integer, RIGHTARG = integer);
CREATE VIEW titles AS
    SELECT documents.id, documents."Title", parents.shade FROM documents
    JOIN parents ON parents.id = documents.parent_id WHERE parents.shade <> 'red';
CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS number FROM titles;
CREATE UNIQUE INDEX ix_counts ON counts (number);
CREATE TRIGGER touched BEFORE UPDATE ON documents FOR EACH ROW
    WHEN (OLD.id IS DISTINCT FROM NEW.id) EXECUTE FUNCTION touch();
CREATE RULE kept AS ON DELETE TO fleeting DO INSTEAD NOTHING;
ALTER TABLE parents ENABLE ROW LEVEL SECURITY;
CREATE POLICY positive ON parents FOR SELECT TO PUBLIC USING (double(number) > 0);
COMMENT ON TABLE parents IS 'of documents';
COMMENT ON COLUMN parents.code IS 'from outside';
COMMENT ON INDEX ix_title IS 'for searching';
COMMENT ON FUNCTION double(integer, integer) IS 'not quite';
GRANT SELECT ON parents TO PUBLIC;
GRANT UPDATE (code) ON parents TO PUBLIC;
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE upgrades (id serial PRIMARY KEY, state text);
"""

#: Names that need quotes and names that do not; one is a table's, one another's beginning.
NAMES = ("documents", "a", "towns", "towns-bern", "select", "towns-bern-2", 'Mr. "X"', "scratch:1")

MUTATIONS = [
    # tables
    ("CREATE TABLE new (id integer)", "+ table new"),
    ("DROP TABLE leaf", "- table leaf"),
    ("ALTER TABLE leaf RENAME TO leaves", "- table leaf"),
    ("ALTER TABLE fleeting SET LOGGED", "~ table fleeting"),
    ("ALTER TABLE documents SET (fillfactor = 80)", "~ table documents"),
    ("ALTER TABLE documents SET (toast.autovacuum_enabled = off)", "~ table documents"),
    ("ALTER TABLE leaf NO INHERIT root", "~ table leaf"),
    ("ALTER TABLE parted DETACH PARTITION parted_old", "~ table parted_old"),
    ("CREATE TABLE next PARTITION OF parted DEFAULT", "+ table next"),
    ("ALTER TABLE parents DISABLE ROW LEVEL SECURITY", "~ table parents"),
    ("ALTER TABLE parents FORCE ROW LEVEL SECURITY", "~ table parents"),
    ("ALTER TABLE parents REPLICA IDENTITY FULL", "~ table parents"),
    # columns
    ("ALTER TABLE parents ADD COLUMN new integer", "+ column parents.new"),
    ("ALTER TABLE parents DROP COLUMN tags", "- column parents.tags"),
    ('ALTER TABLE documents RENAME "Title" TO title', '- column documents."Title"'),
    ("ALTER TABLE parents ALTER name TYPE varchar(51)", "~ column parents.name"),
    ('ALTER TABLE parents ALTER name TYPE varchar(50) COLLATE "C"', "~ column parents.name"),
    ("ALTER TABLE parents ALTER name DROP NOT NULL", "~ column parents.name"),
    ("ALTER TABLE parents ALTER code SET NOT NULL", "~ column parents.code"),
    ("ALTER TABLE parents ALTER always SET GENERATED BY DEFAULT", "~ column parents.always"),
    ("ALTER TABLE parents ALTER always DROP IDENTITY", "~ column parents.always"),
    ("ALTER TABLE parents ALTER twice DROP EXPRESSION", "~ column parents.twice"),
    ("ALTER TABLE parents ALTER code SET STORAGE EXTERNAL", "~ column parents.code"),
    ("ALTER TABLE parents ALTER code SET COMPRESSION pglz", "~ column parents.code"),
    ("ALTER TABLE parents ALTER code SET STATISTICS 500", "~ column parents.code"),
    ("ALTER TABLE parents ALTER code SET (n_distinct = 5)", "~ column parents.code"),
    # defaults
    ("ALTER TABLE parents ALTER name SET DEFAULT 'y'", "~ default parents.name"),
    ("ALTER TABLE parents ALTER name DROP DEFAULT", "- default parents.name"),
    ("ALTER TABLE parents ALTER code SET DEFAULT 'c'", "+ default parents.code"),
    ("ALTER TABLE parents ALTER shade SET DEFAULT 'blue'", "~ default parents.shade"),
    (
        "ALTER TABLE parents ALTER number SET DEFAULT nextval('other.numbers')",
        "~ default parents.number",
    ),
    ("ALTER VIEW titles ALTER id SET DEFAULT 1", "+ default titles.id"),
    # constraints
    (
        "ALTER TABLE parents DROP CONSTRAINT number_is_positive",
        "- constraint parents.number_is_positive",
    ),
    (
        (
            "ALTER TABLE parents DROP CONSTRAINT number_is_positive;"
            "ALTER TABLE parents ADD CONSTRAINT number_is_positive CHECK (number > 1)"
        ),
        "~ constraint parents.number_is_positive",
    ),
    (
        (
            "ALTER TABLE parents DROP CONSTRAINT number_is_positive;"
            "ALTER TABLE parents ADD CONSTRAINT number_is_positive CHECK (number > 0) NOT VALID"
        ),
        "~ constraint parents.number_is_positive",
    ),
    (
        "ALTER TABLE parents RENAME CONSTRAINT number_is_positive TO positive_number",
        "+ constraint parents.positive_number",
    ),
    (
        "ALTER TABLE documents ALTER CONSTRAINT documents_parent_id_fkey DEFERRABLE",
        "~ constraint documents.documents_parent_id_fkey",
    ),
    (
        (
            "ALTER TABLE documents DROP CONSTRAINT documents_parent_id_fkey;"
            "ALTER TABLE documents ADD FOREIGN KEY (parent_id) REFERENCES parents"
        ),
        "~ constraint documents.documents_parent_id_fkey",
    ),
    (
        (
            "ALTER TABLE documents DROP CONSTRAINT documents_parent_id_fkey;"
            "ALTER TABLE documents ADD FOREIGN KEY (parent_id) REFERENCES other.parents"
            " ON DELETE CASCADE"
        ),
        "~ constraint documents.documents_parent_id_fkey",
    ),
    ("ALTER TABLE parents ADD UNIQUE (name)", "+ constraint parents.parents_name_key"),
    ("ALTER TABLE parents DROP CONSTRAINT parents_code_key", "- index parents.parents_code_key"),
    ("ALTER DOMAIN zip DROP CONSTRAINT zip_is_short", "- constraint zip.zip_is_short"),
    # indexes
    ("CREATE INDEX new ON parents (name)", "+ index parents.new"),
    ("DROP INDEX ix_title", "- index documents.ix_title"),
    ("ALTER INDEX ix_title RENAME TO new", "- index documents.ix_title"),
    ("ALTER INDEX ix_title SET (fillfactor = 70)", "~ index documents.ix_title"),
    ("ALTER TABLE documents CLUSTER ON documents_pkey", "~ index documents.documents_pkey"),
    (
        (
            'DROP INDEX ix_title; CREATE INDEX ix_title ON documents (upper("Title"))'
            " WHERE parent_id > 3"
        ),
        "~ index documents.ix_title",
    ),
    (
        (
            'DROP INDEX ix_title; CREATE INDEX ix_title ON documents (lower("Title") DESC)'
            " WHERE parent_id > 3"
        ),
        "~ index documents.ix_title",
    ),
    (
        "DROP INDEX ix_content; CREATE INDEX ix_content ON documents USING gin (content)",
        "~ index documents.ix_content",
    ),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('ix_title' AS regclass)",
        "~ index documents.ix_title",
    ),
    ("DROP INDEX ix_counts", "- index counts.ix_counts"),
    # types
    ("ALTER TYPE color ADD VALUE 'pink'", "+ enum value color.pink"),
    ("ALTER TYPE color ADD VALUE 'pink' BEFORE 'green'", "~ type color"),
    ("ALTER TYPE color RENAME VALUE 'blue' TO 'navy'", "- enum value color.blue"),
    ("ALTER TYPE color RENAME TO colour", "+ type colour"),
    ("CREATE TYPE size AS ENUM ()", "+ type size"),
    ("ALTER TYPE place ADD ATTRIBUTE country text", "+ column place.country"),
    ("CREATE TYPE pair AS (a integer, b integer)", "+ type pair"),
    ("ALTER DOMAIN zip SET NOT NULL", "~ type zip"),
    ("ALTER DOMAIN zip SET DEFAULT '3000'", "~ type zip"),
    ("DROP TYPE span", "- type span"),
    # sequences
    ("ALTER SEQUENCE numbers INCREMENT 2", "~ sequence numbers"),
    ("ALTER SEQUENCE numbers CACHE 20 CYCLE", "~ sequence numbers"),
    ("ALTER SEQUENCE numbers OWNED BY parents.number", "~ sequence numbers"),
    ("ALTER TABLE parents ALTER always SET START 7", "~ sequence parents_always_seq"),
    # views
    (
        (
            "CREATE OR REPLACE VIEW titles AS"
            ' SELECT documents.id, documents."Title", parents.shade'
            " FROM documents JOIN parents ON parents.id = documents.parent_id"
        ),
        "~ view titles",
    ),
    ("ALTER VIEW titles SET (security_barrier)", "~ view titles"),
    ("DROP MATERIALIZED VIEW counts", "- materialized view counts"),
    # functions
    (
        (
            "CREATE OR REPLACE FUNCTION double(x integer, y integer DEFAULT 2) RETURNS integer"
            " LANGUAGE sql IMMUTABLE AS 'SELECT y * x'"
        ),
        "~ function double(x integer, y integer)",
    ),
    (
        (
            "CREATE OR REPLACE FUNCTION double(x integer, y integer DEFAULT 3) RETURNS integer"
            " LANGUAGE sql IMMUTABLE AS 'SELECT x * y'"
        ),
        "~ function double(x integer, y integer)",
    ),
    ("ALTER FUNCTION double STABLE", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION double STRICT", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION double SECURITY DEFINER", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION double PARALLEL SAFE", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION double COST 7", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION double SET work_mem = '8MB'", "~ function double(x integer, y integer)"),
    ("ALTER FUNCTION shade_of RESET search_path", "~ function shade_of(id integer)"),
    ("ALTER FUNCTION shade_of SET search_path TO other", "~ function shade_of(id integer)"),
    ("DROP FUNCTION atomic", "- function atomic(x integer)"),
    ("DROP PROCEDURE clear", "- procedure clear()"),
    (
        (
            "CREATE OR REPLACE AGGREGATE sum_of(integer)"
            " (SFUNC = double, STYPE = integer, INITCOND = '1')"
        ),
        "~ aggregate sum_of(integer)",
    ),
    # what hangs on tables
    ("DROP TRIGGER touched ON documents", "- trigger documents.touched"),
    ("ALTER TABLE documents DISABLE TRIGGER touched", "~ trigger documents.touched"),
    (
        "ALTER TABLE documents DISABLE TRIGGER ALL",
        "~ constraint documents.documents_parent_id_fkey",
    ),
    (
        (
            "CREATE OR REPLACE TRIGGER touched AFTER UPDATE ON documents FOR EACH ROW"
            " EXECUTE FUNCTION touch()"
        ),
        "~ trigger documents.touched",
    ),
    ("DROP RULE kept ON fleeting", "- rule fleeting.kept"),
    ("ALTER TABLE fleeting DISABLE RULE kept", "~ rule fleeting.kept"),
    ("DROP POLICY positive ON parents", "- policy parents.positive"),
    ("ALTER POLICY positive ON parents USING (double(number) > 1)", "~ policy parents.positive"),
    ("ALTER POLICY positive ON parents TO pg_monitor", "~ policy parents.positive"),
    ("DROP STATISTICS related", "- statistics documents.related"),
    ("ALTER STATISTICS related SET STATISTICS 200", "~ statistics documents.related"),
    # comments, privileges, owners
    ("COMMENT ON TABLE parents IS 'new'", "~ comment table parents"),
    ("COMMENT ON COLUMN parents.code IS NULL", "- comment column parents.code"),
    (
        "COMMENT ON CONSTRAINT number_is_positive ON parents IS 'x'",
        "+ comment constraint parents.number_is_positive",
    ),
    ("COMMENT ON FUNCTION double IS 'new'", "~ comment function double(x integer, y integer)"),
    ("COMMENT ON TRIGGER touched ON documents IS 'x'", "+ comment trigger documents.touched"),
    ("COMMENT ON TYPE color IS 'x'", "+ comment type color"),
    ("GRANT INSERT ON parents TO PUBLIC", "~ privileges table parents"),
    ("REVOKE ALL ON parents FROM PUBLIC", "- privileges table parents"),
    ("GRANT SELECT ON documents TO pg_monitor WITH GRANT OPTION", "+ privileges table documents"),
    ("REVOKE UPDATE (code) ON parents FROM PUBLIC", "- privileges column parents.code"),
    (
        "REVOKE EXECUTE ON FUNCTION double FROM PUBLIC",
        "+ privileges function double(x integer, y integer)",
    ),
    ("GRANT USAGE ON SEQUENCE numbers TO PUBLIC", "+ privileges sequence numbers"),
    ("REVOKE USAGE ON TYPE color FROM PUBLIC", "+ privileges type color"),
    ("GRANT USAGE ON SCHEMA {name} TO PUBLIC", "+ privileges schema "),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT SELECT ON TABLES TO PUBLIC",
        "+ privileges default privileges r",
    ),
    ("ALTER TABLE documents OWNER TO pg_monitor", "+ owner table documents"),
    # rarities
    ("DROP COLLATION by_bytes CASCADE", "- collation by_bytes"),
    (
        "ALTER TEXT SEARCH CONFIGURATION plain ADD MAPPING FOR email WITH short",
        "~ text search configuration plain",
    ),
    ("ALTER TEXT SEARCH DICTIONARY short (accept = false)", "~ text search dictionary short"),
    ("DROP OPERATOR <=#=> (integer, integer)", "- operator <=#=>(integer, integer)"),
]

#: What only newer servers know.
NEWER_MUTATIONS = [
    ("ALTER TABLE parents ADD CONSTRAINT n NOT NULL code NOT VALID", "~ column parents.code"),
    (
        "ALTER TABLE parents ADD v integer GENERATED ALWAYS AS (number) VIRTUAL",
        "+ column parents.v",
    ),
    (
        "ALTER TABLE documents ALTER CONSTRAINT documents_parent_id_fkey NOT ENFORCED",
        "~ constraint documents.documents_parent_id_fkey",
    ),
]

#: What makes no difference.
NO_MUTATIONS = [
    "INSERT INTO parents (name) VALUES ('x')",
    "SELECT nextval('numbers')",
    "ALTER SEQUENCE numbers RESTART 1000",
    "ALTER TABLE parents ADD COLUMN new integer; ALTER TABLE parents DROP COLUMN new",
    "ALTER TABLE root DROP x; ALTER TABLE root ADD x integer",
    "INSERT INTO alembic_version VALUES ('1'); ALTER TABLE alembic_version ADD COLUMN x integer",
    "CREATE INDEX ON upgrades (state); COMMENT ON TABLE upgrades IS 'x'",
    "DROP TABLE alembic_version, upgrades",
    "COMMENT ON SCHEMA {name} IS 'a mark'",
    "ANALYZE parents",
    "CREATE EXTENSION citext SCHEMA {name}",
    "GRANT SELECT ON fleeting TO CURRENT_USER",
    "CREATE TEMPORARY TABLE parents (x integer); CREATE TEMPORARY TABLE documents (x integer)",
    "ALTER TABLE parents ALTER name SET DEFAULT 'y', ALTER name SET DEFAULT 'x'",
    "ALTER TYPE color RENAME TO c; ALTER TYPE c RENAME TO color",
]


@contextmanager
def undone(engine):
    """A transaction that never happened."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


def run(connection, name, sql):
    """Run SQL with a schema on the search path."""
    connection.exec_driver_sql(set_local_search_path([name, "extensions"]))
    connection.exec_driver_sql(sql.replace("{name}", quote_identifier(name)))
    connection.exec_driver_sql(set_local_search_path(["public"]))


def make(connection, name, script=SCRIPT):
    """Make a schema."""
    connection.exec_driver_sql(f"CREATE SCHEMA {quote_identifier(name)}")
    run(connection, name, script)


def differences(before, after):
    """Return what was added, taken away and changed."""
    old, new = ({(item.kind, item.name): item for item in items} for items in (before, after))
    signs = {
        key: "-" if key not in new else "+" if key not in old else "~"
        for key in old | new
        if old.get(key) != new.get(key)
    }
    return {f"{sign} {kind} {name}" for (kind, name), sign in signs.items()}


def one_of(databases):
    name = databases.create()
    engine = create_engine(databases.server.dsn(name, driver="psycopg2", tcp=False))
    with engine.begin() as connection:
        for schema in ("other", *NAMES):
            make(connection, schema)
    yield engine
    engine.dispose()
    databases.drop(name)


@pytest.fixture(scope="module")
def new_engine(newest):
    """An engine of a database with equal schemas, on PostgreSQL 18."""
    yield from one_of(newest)


@pytest.fixture(scope="module")
def old_engine(older):
    yield from one_of(older)


@pytest.fixture(params=["new_engine", "old_engine"], ids=["newest", "older"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def originals():
    """What was found in the unchanged schema, per server."""
    return {}


# -- equal ones


def test_equal_schemas_have_equal_fingerprints(engine):
    with undone(engine) as connection:
        found = fingerprints(connection, NAMES)
        items = structures(connection, NAMES)
    assert list(found) == list(NAMES)
    assert len(set(items.values())) == 1
    assert len(set(found.values())) == 1


def test_no_item_contains_the_name_of_its_schema(engine):
    with undone(engine) as connection:
        found = structures(connection, ["towns", "towns-bern", "scratch:1", 'Mr. "X"'])
    for name, items in found.items():
        assert len(items) > 80
        assert not [item for item in items if name in f"{item.name} {item.definition}"]


def test_a_schema_that_was_renamed(engine):
    with undone(engine) as connection:
        before = fingerprints(connection, ["towns"])["towns"]
        connection.exec_driver_sql('ALTER SCHEMA towns RENAME TO "was-towns"')
        # A body is a text, which the server does not change.
        body = "BEGIN NEW.id := {name}.double(NEW.id); RETURN NEW; END"
        run(
            connection,
            "was-towns",
            f"""
            CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS '{body}';
            CREATE OR REPLACE FUNCTION shade_of(id integer) RETURNS color LANGUAGE sql STABLE
            SET search_path TO {{name}}, extensions
            AS $$ SELECT documents.shade FROM {{name}}.parents AS documents
            WHERE documents.id = $1 $$""".replace(
                "documents\n            WHERE", "documents WHERE"
            ),
        )
        assert fingerprints(connection, ["was-towns"]) == {"was-towns": before}


def test_a_schema_whose_tables_were_made_in_another_order(engine):
    with undone(engine) as connection:
        make(connection, "x", "CREATE TABLE a (x integer, y text); CREATE TABLE b (z integer)")
        make(
            connection,
            "y",
            "CREATE TABLE b (z integer); CREATE TABLE a (y text);"
            "ALTER TABLE a ADD COLUMN x integer",
        )
        assert len(set(fingerprints(connection, ["x", "y"]).values())) == 1


def test_another_owner_of_the_whole_makes_no_difference(engine):
    with undone(engine) as connection:
        connection.exec_driver_sql("CREATE ROLE somebody")
        make(connection, "x", "CREATE TABLE t (id serial); GRANT SELECT ON t TO PUBLIC")
        connection.exec_driver_sql(
            "GRANT CREATE ON DATABASE "
            f"{quote_identifier(engine.url.database)} TO somebody; SET LOCAL ROLE somebody"
        )
        make(connection, "y", "CREATE TABLE t (id serial); GRANT SELECT ON t TO PUBLIC")
        connection.exec_driver_sql("RESET ROLE")
        assert len(set(fingerprints(connection, ["x", "y"]).values())) == 1


@pytest.mark.parametrize("sql", NO_MUTATIONS)
def test_what_makes_no_difference(engine, sql):
    with undone(engine) as connection:
        run(connection, "towns-bern", sql)
        found = fingerprints(connection, ["towns-bern", "a"])
        if found["towns-bern"] != found["a"]:
            before, after = structures(connection, ["a", "towns-bern"]).values()
            assert differences(before, after) == set()
            assert found["towns-bern"] == found["a"]


# -- different ones


def check_mutation(engine, originals, sql, difference, name="towns-bern", is_hashed=True):
    with undone(engine) as connection:
        if engine not in originals:
            originals[engine] = (
                fingerprints(connection, [name])[name],
                structure(connection, name),
            )
        digest, before = originals[engine]
        run(connection, name, sql)
        if is_hashed:
            assert fingerprints(connection, [name])[name] != digest
        assert difference in differences(before, structure(connection, name))


@pytest.mark.parametrize(("sql", "difference"), MUTATIONS)
def test_each_change_is_seen_and_named(request, engine, originals, sql, difference):
    # The hash is of what is named; to try both on one server saves time.
    is_hashed = "newest" in request.node.callspec.id
    check_mutation(engine, originals, sql, difference, is_hashed=is_hashed)


@pytest.mark.parametrize(("sql", "difference"), NEWER_MUTATIONS)
def test_each_change_is_seen_and_named_on_a_new_server(new_engine, originals, sql, difference):
    check_mutation(new_engine, originals, sql, difference)


def test_a_change_of_one_schema_leaves_the_others_alone(engine):
    with undone(engine) as connection:
        before = fingerprints(connection, NAMES)
        run(connection, "towns", "ALTER TABLE parents ADD COLUMN new integer")
        after = fingerprints(connection, NAMES)
    assert [name for name in NAMES if before[name] != after[name]] == ["towns"]


# -- around


def test_the_search_path_is_as_it_was(engine):
    with undone(engine) as connection:
        connection.exec_driver_sql(set_local_search_path(["towns", "extensions"]))
        jit = connection.exec_driver_sql("SHOW jit").scalar()
        fingerprints(connection, NAMES)
        structures(connection, NAMES)
        assert connection.exec_driver_sql("SHOW search_path").scalar() == "towns, extensions"
        assert connection.exec_driver_sql("SHOW jit").scalar() == jit


def test_in_the_middle_of_a_managers_transaction(dsn, new_manager):
    mgr = new_manager(dsn, Base, strict=True)
    mgr.ensure_schema_exists("towns-bern")
    mgr.set_current_schema("towns-chur")
    connection = mgr.session().connection()
    found = fingerprints(connection, ["towns-bern", "towns-chur"])
    assert len(set(found.values())) == 1
    assert connection.exec_driver_sql("SELECT current_schema()").scalar() == "towns-chur"
    assert Item("table", "documents", "") in structure(connection, "towns-chur")


def test_without_a_transaction(engine):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        path = connection.exec_driver_sql("SHOW search_path").scalar()
        assert len(set(fingerprints(connection, NAMES).values())) == 1
        assert connection.exec_driver_sql("SHOW search_path").scalar() == path


def test_of_nothing(engine):
    with undone(engine) as connection:
        connection.exec_driver_sql("CREATE SCHEMA x; CREATE SCHEMA y")
        assert fingerprints(connection, []) == {}
        assert fingerprints(connection, ["nobody"]) == {}
        assert len(set(fingerprints(connection, ["x", "nobody", "y"]).values())) == 1
        assert structure(connection, "x") == ()
        with pytest.raises(SchemaNotFound):
            structure(connection, "nobody")


def test_a_schema_that_the_role_may_not_look_into(engine):
    with undone(engine) as connection:
        connection.exec_driver_sql('CREATE ROLE "some body"; SET LOCAL ROLE "some body"')
        with pytest.raises(PermissionDenied) as caught:
            fingerprints(connection, ["a", "towns-bern"])
    assert caught.value.sql.endswith('TO "some body"')


@pytest.mark.parametrize("group", _sql_fingerprints.HASHES)
def test_the_statements_leave_nothing_on_a_connection(group):
    """Or they would be refused behind a pooler, and cost a DISCARD ALL elsewhere."""
    for sql in (_sql_fingerprints.HASHES[group], _sql_fingerprints.DETAILS[group]):
        assert effects_of(sql) is Effects.MOVES_PATH


def test_an_item_as_json():
    item = Item("column", "documents.title", "text")
    assert item.as_dict() == {
        "kind": "column",
        "name": "documents.title",
        "definition": "text",
    }
