"""The check of the fleet: it names what differs, in which schema, and against whom."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Table

from onegov_orm._sql import set_local_search_path
from onegov_orm.errors import ForeignSchema, SchemaNotFound
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet._drift_comparison import by_key, compare
from onegov_orm.fleet.drift import Difference, check
from onegov_orm.fleet.fingerprints import Item
from tests.models import Base
from tests.provisioning import base_of

NAMES = ("towns-bern", "towns-chur", "towns-thun", "towns-visp")


def run(dsn, outside, schema, sql):
    """Change a schema behind the library's back."""
    outside(dsn)(f"BEGIN; {set_local_search_path([schema, 'extensions'])}; {sql}; COMMIT")


def fleet_of(mgr, names=NAMES):
    for name in names:
        mgr.ensure_schema_exists(name)
    return FleetContext(mgr)


@pytest.fixture
def fleet(common_dsn, new_manager):
    """Four equal customers."""
    return fleet_of(new_manager(common_dsn, Base))


@pytest.fixture
def change(common_dsn, outside):
    """Change a schema: ``change('towns-bern', 'DROP TABLE pages')``."""
    return lambda schema, sql: run(common_dsn, outside, schema, sql)


def told(report):
    """Return what is told of single schemas, in short."""
    return [
        (each.schema, each.kind, each.name, each.expected, each.found, each.against)
        for each in report.differences
    ]


def schemas_of(outside, dsn):
    rows = outside(dsn)("SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg%'")
    return {name for (name,) in rows}


# -- what is found


def test_equal_schemas(dsn, new_manager, outside):
    context = fleet_of(new_manager(dsn, Base))
    before = schemas_of(outside, dsn)
    report = check(context)
    assert report.is_ok
    assert (report.schemas, report.majority_size) == (4, 4)
    assert (report.differences, report.majority, report.notes) == ((), (), ())
    assert schemas_of(outside, dsn) == before


@pytest.mark.parametrize(
    ("sql", "kind", "name", "expected", "found"),
    [
        ("ALTER TABLE pages RENAME TO sites; ALTER TABLE sites RENAME TO pages", *[None] * 4),
        ("DROP TABLE pages", "table", "pages", "", None),
        ("ALTER TABLE documents DROP title", "column", "documents.title",
         "character varying", None),
        ("ALTER TABLE documents ALTER title TYPE text", "column", "documents.title",
         "character varying", "text"),
        ("ALTER TABLE documents ALTER title SET NOT NULL", "column", "documents.title",
         "character varying", "character varying NOT NULL"),
        ("ALTER TABLE documents ALTER id DROP DEFAULT", "default", "documents.id",
         "nextval('documents_id_seq'::regclass)", None),
        ("DROP INDEX ix_documents_owner", "index", "documents.ix_documents_owner",
         "CREATE INDEX ix_documents_owner ON documents USING btree (owner)", None),
        ("ALTER TABLE pages DROP CONSTRAINT pages_document_id_fkey", "constraint",
         "pages.pages_document_id_fkey",
         "FOREIGN KEY (document_id) REFERENCES documents(id) ON DELETE CASCADE", None),
        ("ALTER TABLE pages DROP CONSTRAINT pages_pkey", "constraint", "pages.pages_pkey",
         "PRIMARY KEY (id)", None),
        ("ALTER TYPE color ADD VALUE 'BLUE' BEFORE 'RED'", "enum value", 'color."BLUE"', None, ""),
        ("ALTER TABLE documents ADD more text", "column", "documents.more", None, "text"),
        ("CREATE TABLE more (id serial PRIMARY KEY, x text UNIQUE CHECK (x > '') DEFAULT 'y')",
         "table", "more", None, ""),
    ],
)  # fmt: skip
def test_the_one_that_differs(fleet, change, sql, kind, name, expected, found):
    change("towns-chur", sql)
    report = check(fleet)
    against = "majority" if expected is None else "models"
    assert told(report) == ([("towns-chur", kind, name, expected, found, against)] if kind else [])
    assert report.is_ok is (kind is None)
    assert (report.majority_size, report.majority) == (3 if kind else 4, ())


def test_other_order_of_enum_values(fleet, change):
    change("towns-chur", "ALTER TYPE color RENAME VALUE 'RED' TO 'X';"
           "ALTER TYPE color RENAME VALUE 'GREEN' TO 'RED';"
           "ALTER TYPE color RENAME VALUE 'X' TO 'GREEN'")  # fmt: skip
    [difference] = check(fleet).differences
    assert difference.message == "type color is enum ('GREEN', 'RED'), not enum ('RED', 'GREEN')"


def test_all_that_differs_in_several_schemas(fleet, change):
    change("towns-chur", "DROP INDEX ix_documents_owner; ALTER TABLE items ADD x integer")
    change("towns-bern", "COMMENT ON TABLE items IS 'x'")
    report = check(fleet)
    assert [(schema, kind, name) for schema, kind, name, *_ in told(report)] == [
        ("towns-bern", "comment", "table items"),
        ("towns-chur", "column", "items.x"),
        ("towns-chur", "index", "documents.ix_documents_owner"),
    ]
    assert report.drifted == ["towns-bern", "towns-chur"]


def test_a_majority_that_differs_from_the_models_is_told_once(fleet, change):
    for name in NAMES[1:]:
        change(name, "DROP INDEX ix_documents_owner")
    change(NAMES[1], "DROP TABLE pages")
    report = check(fleet)
    [difference] = report.majority
    assert difference.name == "documents.ix_documents_owner"
    # This one is as the models have it, and unlike the others.
    first, second = told(report)
    assert first[:3] == (NAMES[0], "index", "documents.ix_documents_owner")
    assert first[-1] == "majority"
    assert second == (NAMES[1], "table", "pages", "", None, "models")


def test_what_the_majority_has_beside_the_models_is_a_note(common_dsn, new_manager, outside):
    mgr = new_manager(common_dsn, Base)

    @mgr.on_schema_init.connect
    def write(schema, connection):
        connection.execute(sa.text("CREATE VIEW owners AS SELECT owner FROM documents"))

    context = fleet_of(mgr)
    report = check(context)
    assert report.is_ok
    assert report.notes == ("4 schemas have view owners, which is in no model",)
    run(common_dsn, outside, "towns-visp", "DROP VIEW owners")
    [difference] = check(context).differences
    assert (difference.name, difference.against) == ("owners", "majority")
    assert difference.message.startswith("view owners is missing:  SELECT")


def test_bookkeeping_is_a_note(fleet, change):
    change("towns-bern", "CREATE TABLE alembic_version (version_num varchar(32))")
    report = check(fleet)
    assert report.is_ok
    assert report.notes == (
        "3 schemas have no table alembic_version: towns-chur, towns-thun, towns-visp",
    )


# -- the shared schema


def shared_base():
    base = base_of(("countries", Column("name", sa.Text)), schema="shared")
    parts = (Column("id", sa.Integer, primary_key=True),
             Column("country_id", ForeignKey("shared.countries.id")),
             Column("name", sa.Text), Index("ix_name", "name"))  # fmt: skip
    Table("towns", base.metadata, *parts)
    return base


def test_the_shared_schema(dsn, new_manager, outside):
    context = fleet_of(new_manager(dsn, shared_base()), NAMES[:2])
    assert check(context).is_ok
    execute = outside(dsn)
    execute("ALTER TABLE shared.countries ALTER name TYPE varchar(10)")
    before = schemas_of(outside, dsn)
    assert told(check(context)) == [
        ("shared", "column", "countries.name", "text", "character varying(10)", "models")
    ]
    assert schemas_of(outside, dsn) == before


def test_the_real_shared_tables_are_not_locked(common_dsn, new_manager, outside):
    context = fleet_of(new_manager(common_dsn, shared_base()), NAMES[:1])
    execute = outside(common_dsn)
    execute("BEGIN")
    execute("INSERT INTO shared.countries (name) VALUES ('CH')")
    assert check(context, lock_timeout_seconds=0.5).is_ok
    execute("COMMIT")


# -- around


def test_of_some_schemas_only(fleet, change):
    change("towns-chur", "DROP TABLE pages")
    assert check(fleet, schemas=["towns-bern", "towns-thun"]).is_ok
    assert check(fleet, schemas=["towns-chur"]).majority[0].schema == "towns-chur"
    with pytest.raises(SchemaNotFound):
        check(fleet, schemas=["towns-nowhere"])
    change("towns-bern", "CREATE SCHEMA strange")
    with pytest.raises(ForeignSchema):
        check(fleet, schemas=["strange"])


def test_an_empty_fleet(common_dsn, new_manager):
    mgr = new_manager(common_dsn, Base)
    mgr.create_required_extensions()
    report = check(FleetContext(mgr))
    assert report.is_ok
    assert report.schemas == 0


def test_progress(fleet, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet.drift._BATCH", 3)
    seen = []
    check(fleet, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_many_different_ones(fleet, change, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet.drift._DETAILS_BATCH", 2)
    for name in NAMES:
        change(name, f"COMMENT ON TABLE items IS '{name}'")
    report = check(fleet)
    assert report.drifted == list(NAMES[1:])
    assert report.majority_size == 1


def test_a_view_that_somebody_locks(fleet, change, outside, common_dsn):
    change("towns-bern", "CREATE VIEW owners AS SELECT owner FROM documents")
    execute = outside(common_dsn)
    execute('BEGIN; LOCK TABLE "towns-bern".documents')
    report = check(fleet, lock_timeout_seconds=0.1)
    execute("ROLLBACK")
    [difference] = report.differences
    assert difference.schema == "towns-bern"
    assert "lock timeout" in difference.message
    assert report.schemas == 3


def test_a_role_that_may_make_nothing_and_see_some(
    fleet, newest, outside, common_dsn, new_manager
):
    newest.run("CREATE ROLE looker LOGIN PASSWORD 'secret'")
    execute = outside(common_dsn)
    try:
        for name in ("extensions", *NAMES[:3]):
            execute(f'GRANT USAGE ON SCHEMA "{name}" TO looker')
        url = sa.make_url(common_dsn).set(username="looker", password="secret")
        report = check(FleetContext(new_manager(url, Base)))
        assert not report.was_compared_with_models
        assert not report.is_ok
        assert "permission denied" in report.notes[0]
        assert report.majority_size == 3
        assert [each.schema for each in report.differences] == ["towns-visp"]
        assert "GRANT USAGE ON SCHEMA" in report.differences[0].message
    finally:
        execute("DROP OWNED BY looker; DROP ROLE looker")


def test_behind_a_pooler(newest, new_pooler, new_manager, outside):
    name = newest.create()
    pooler = new_pooler(newest, default_pool_size=2)
    context = fleet_of(new_manager(pooler.dsn(name), Base, pooler="external"), NAMES[:3])
    run(newest.server.dsn(name, tcp=False), outside, "towns-bern", "DROP TABLE pages")
    assert [each.name for each in check(context).differences] == ["pages"]
    context.manager.dispose()
    newest.drop(name)


def test_while_schemas_come_go_and_change(fleet, common_dsn, outside):
    """What is read one moment may be gone the next."""
    execute, ended = outside(common_dsn), Event()

    def disturb():
        while not ended.is_set():
            execute('ALTER SCHEMA "towns-bern" RENAME TO "towns-basel"')
            execute('ALTER SCHEMA "towns-basel" RENAME TO "towns-bern"')
            execute('CREATE VIEW "towns-chur".v AS SELECT id, owner FROM "towns-chur".documents')
            execute('ALTER TABLE "towns-chur".pages ADD x integer DEFAULT 5; '
                    'ALTER TABLE "towns-chur".pages DROP x')  # fmt: skip
            execute('DROP VIEW "towns-chur".v')

    thread = Thread(target=disturb)
    thread.start()
    try:
        for _ in range(5):
            report = check(fleet)
            assert {each.schema for each in report.differences} <= {"towns-chur", "towns-bern"}
    finally:
        ended.set()
        thread.join()
    assert check(fleet).is_ok


def test_no_connection_and_nothing_on_it_is_left(fleet):
    engine = fleet.engine
    check(fleet)
    assert engine.pool.checkedout() == 0
    check(fleet)
    assert engine.pool.checkedout() == 0


def test_as_json(fleet, change):
    change("towns-chur", "ALTER TABLE items ADD x integer")
    values = check(fleet).as_dict()
    assert values["drifted"] == ["towns-chur"]
    assert values["differences"] == [
        {"schema": "towns-chur", "kind": "column", "name": "items.x", "expected": None,
         "found": "integer", "against": "majority"}
    ]  # fmt: skip


# -- what follows from something else


def test_only_the_cause_is_told():
    whole = [
        Item("table", '"My.Table"', ""),
        Item("column", '"My.Table".id', "integer"),
        Item("default", '"My.Table".id', "nextval('s')"),
        Item("sequence", "s", 'AS integer OWNED BY "My.Table".id'),
        Item("index", '"My.Table".i', "CREATE"),
        Item("comment", 'column "My.Table".id', "x"),
        Item("privileges", 'table "My.Table"', "x"),
        Item("owner", "sequence s", "x"),
        Item("table", "other", ""),
    ]
    found = compare(by_key(whole), by_key(whole[-1:]))
    assert list(found) == [("owner", "sequence s"), ("table", '"My.Table"')]


def test_a_column_that_goes_and_one_that_comes():
    old = [Item("column", "t.a", "x"), Item("default", "t.a", "1"), Item("table", "t", "")]
    new = [Item("column", "t.b", "x"), Item("default", "t.b", "1"), Item("table", "t", "")]
    assert list(compare(by_key(old), by_key(new))) == [("column", "t.a"), ("column", "t.b")]


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        ("text", "integer", "column t.x is integer, not text"),
        ("text", None, "column t.x is missing: text"),
        ("", None, "column t.x is missing"),
        (None, "text", "column t.x is not in the majority: text"),
        ("", "UNLOGGED", "column t.x is UNLOGGED, not plain"),
    ],
)
def test_messages(expected, found, message):
    difference = Difference("a", "column", "t.x", expected, found, "majority")
    assert difference.message == message
