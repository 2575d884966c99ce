"""Tables that live once, for all customers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import DDL, Column, ForeignKey, Index, event

from onegov_orm.errors import InvalidSchemaName
from tests.provisioning import add_table, base_of, has_schema, relations, statements_of


def shared_base(schema="shared"):
    """Return a base with a shared table that the customers' refer to."""
    base = base_of(("towns", Column("country_id", ForeignKey(f"{schema}.countries.id"))))
    kind = sa.Enum("x", "y", name="kind", schema=schema)
    add_table(
        base.metadata,
        "countries",
        Column("name", sa.Text, index=True),
        Column("kind", kind),
        schema=schema,
    )
    return base


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


def test_it_lives_once(dsn, new_manager, outside):
    mgr = new_manager(dsn, shared_base())
    for name in ("a", "b"):
        mgr.set_current_schema(name)
    execute = outside(dsn)
    assert execute("SELECT count(*) FROM pg_class WHERE relname = 'countries'") == [(1,)]
    assert {"countries", "ix_shared_countries_name"} <= set(relations(execute, "shared"))
    assert "countries" not in relations(execute, "a")


def test_foreign_keys_to_it_work(common_dsn, new_manager):
    base = shared_base()
    mgr = new_manager(common_dsn, base)
    countries, towns = (base.metadata.tables[name] for name in ("shared.countries", "towns"))
    mgr.set_current_schema("a")
    mgr.session().execute(countries.insert().values(id=1, name="CH", kind="x"))
    mgr.session().execute(towns.insert().values(country_id=1))
    transaction.commit()
    mgr.set_current_schema("b")
    mgr.session().execute(towns.insert().values(country_id=1))
    transaction.commit()
    assert mgr.session().scalar(sa.select(countries.c.kind)) == "x"
    with pytest.raises(sa.exc.IntegrityError):
        mgr.session().execute(towns.insert().values(country_id=2))


def test_under_another_name(common_dsn, new_manager, execute):
    mgr = new_manager(common_dsn, shared_base("common"), shared_schema="common")
    mgr.set_current_schema("a")
    assert "countries" in relations(execute, "common")
    assert not has_schema(execute, "shared")
    with pytest.raises(InvalidSchemaName, match="reserved"):
        mgr.set_current_schema("common")


def test_no_customer_can_have_its_schema(common_dsn, new_manager):
    mgr = new_manager(common_dsn, shared_base())
    with pytest.raises(InvalidSchemaName, match="reserved"):
        mgr.set_current_schema("shared")


def test_without_shared_tables_there_is_no_schema(common_dsn, new_manager, execute):
    new_manager(common_dsn, base_of(("t",))).set_current_schema("a")
    assert not has_schema(execute, "shared")


def test_tables_of_yet_another_schema_are_left_alone(common_dsn, new_manager, execute):
    base = base_of(("t",))
    add_table(base.metadata, "elsewhere", Column("x", sa.Enum("x", name="e")), schema="other")
    new_manager(common_dsn, base).set_current_schema("a")
    assert not has_schema(execute, "other")
    assert "elsewhere" not in relations(execute, "a")


def test_sequences_and_types_go_where_they_belong(common_dsn, new_manager, execute):
    base = shared_base()
    sa.Sequence("own", metadata=base.metadata)
    sa.Sequence("common", metadata=base.metadata, schema="shared")
    kind = sa.Enum("x", name="also_shared", schema="shared")
    add_table(base.metadata, "t", Column("x", kind))
    mgr = new_manager(common_dsn, base)
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert "own" in relations(execute, "b")
    assert "common" in relations(execute, "shared")
    types = "SELECT typname::text FROM pg_type WHERE typtype = 'e' ORDER BY 1"
    assert execute(types) == [("also_shared",), ("kind",)]


def test_listeners_of_the_metadata_run_for_the_customers(common_dsn, new_manager, execute):
    base, heard = shared_base(), []
    ddl = DDL("CREATE VIEW v AS SELECT * FROM towns")
    event.listen(base.metadata, "after_create", ddl)
    event.listen(base.metadata, "after_create", lambda *_, **__: heard.append("all"))
    shared = base.metadata.tables["shared.countries"]
    event.listen(shared, "after_create", lambda target, *_, **__: heard.append(target.name))
    event.listen(shared, "after_create", DDL("INSERT INTO %(fullname)s (name) VALUES ('CH')"))
    mgr = new_manager(common_dsn, base)
    mgr.set_current_schema("a")
    mgr.set_current_schema("b")
    assert heard == ["countries", "all", "all"]
    assert "v" in relations(execute, "b")
    assert execute("SELECT name FROM shared.countries") == [("CH",)]


def test_what_is_missing_is_made(common_dsn, new_manager, execute):
    base = shared_base()
    Index("later", base.metadata.tables["shared.countries"].c.kind)
    new_manager(common_dsn, base).set_current_schema("a")
    execute("DROP INDEX shared.later")
    new_manager(common_dsn, base).set_current_schema("a")
    assert "later" in relations(execute, "shared")


def test_it_is_looked_at_once_in_a_process(common_dsn, new_manager):
    mgr = new_manager(common_dsn, shared_base())
    mgr.set_current_schema("a")
    with statements_of(mgr) as sent:
        mgr.set_current_schema("b")
    assert sum("ARRAY" in statement for statement in sent) == 2


def test_a_failure_leaves_nothing_of_it(common_dsn, new_manager, execute):
    mgr = new_manager(common_dsn, shared_base())
    mgr.on_schema_init.connect(lambda schema, **_: 1 / 0, weak=False)
    with pytest.raises(ZeroDivisionError):
        mgr.set_current_schema("a")
    assert not has_schema(execute, "shared")


def test_a_thread_that_holds_the_shared_table_does_not_wait_for_itself_forever(
    common_dsn, new_manager, execute, monkeypatch
):
    monkeypatch.setattr("onegov_orm.provisioning._LOCK_TIMEOUT", "200ms")
    base = shared_base()
    mgr = new_manager(common_dsn, base)
    mgr.set_current_schema("a")
    countries = base.metadata.tables["shared.countries"]
    mgr.session().execute(countries.insert().values(id=1, name="CH", kind="x"))
    with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
        mgr.set_current_schema("b")
    assert not has_schema(execute, "b")
    assert mgr.current_schema == "a"
