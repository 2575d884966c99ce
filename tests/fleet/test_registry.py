"""Who the customers are: what carries a mark, in one query."""

from __future__ import annotations

import pytest

from onegov_orm import ForeignSchema, InvalidSchemaName, SchemaNotFound
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.registry import read_overview
from onegov_orm.marks import Mark, State
from tests.models import Base, Document
from tests.provisioning import statements_of

TOWNS = ["forms-bern", "towns-basel", "towns-bern"]


@pytest.fixture
def context(common_dsn, new_manager):
    return FleetContext(new_manager(common_dsn, Base, transaction_manager=None))


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


@pytest.fixture
def fleet(context):
    for name in TOWNS:
        lifecycle.create(context, name)
    return context


def names(customers):
    return [str(customer.schema) for customer in customers]


def test_customers_are_sorted_and_asked_for_once(fleet):
    with statements_of(fleet.manager) as sent:
        assert names(fleet.customers()) == TOWNS
    assert len(sent) == 1


def test_namespaces(fleet):
    assert names(fleet.customers(namespace="towns")) == TOWNS[1:]
    assert fleet.customers(namespace="town") == []
    assert fleet.customers(namespace="%") == []


def test_states(fleet):
    lifecycle.suspend(fleet, "towns-bern")
    lifecycle.drop(fleet, "towns-basel")
    lifecycle.fill_spares(fleet, 1)
    assert names(fleet.customers()) == ["forms-bern", "towns-bern"]
    assert names(fleet.customers(states=[State.SUSPENDED])) == ["towns-bern"]
    assert names(fleet.customers(states=[State.TRASHED]))[0].startswith("trash:")
    assert names(fleet.customers(states=[State.SPARE]))[0].startswith("spare:")
    with pytest.raises(SchemaNotFound):
        fleet.customers(names=["towns-bern"], states=[State.ACTIVE])


def test_names(fleet, execute):
    execute("CREATE SCHEMA stranger")
    assert names(fleet.customers(names=["towns-bern", "forms-bern"])) == [TOWNS[0], TOWNS[2]]
    assert fleet.customers(names=[]) == []
    with pytest.raises(SchemaNotFound, match="nowhere"):
        fleet.customers(names=["towns-bern", "nowhere"])
    with pytest.raises(ForeignSchema, match="stranger"):
        fleet.customers(names=["stranger"])
    for bad in ("public", "A", "trash:01", "x;y"):
        with pytest.raises(InvalidSchemaName):
            fleet.customers(names=[bad])


def test_strangers_are_left_alone(fleet, execute):
    execute("CREATE SCHEMA stranger; COMMENT ON SCHEMA stranger IS 'onegov_orm is great'")
    execute(f'CREATE SCHEMA "Odd"; COMMENT ON SCHEMA "Odd" IS \'{Mark.new().comment}\'')
    execute("COMMENT ON SCHEMA public IS NULL")
    assert names(fleet.customers()) == TOWNS


def test_a_new_schema_is_marked_and_an_old_comment_becomes_the_note(fleet, execute):
    execute('CREATE SCHEMA "towns-old"; COMMENT ON SCHEMA "towns-old" IS \'since 1291\'')
    fleet.manager.ensure_schema_exists("towns-old")
    assert fleet.customer("towns-old").mark.note == "since 1291"
    fleet.manager.create_schema("towns-empty")
    assert fleet.customer("towns-empty").mark.state is State.ACTIVE


def test_a_schema_that_had_tables_is_not_taken_over(fleet, execute):
    execute('CREATE SCHEMA "towns-old"; CREATE TABLE "towns-old".items (id int)')
    fleet.manager.ensure_schema_exists("towns-old")
    with pytest.raises(ForeignSchema):
        fleet.customer("towns-old")


def test_tables_of_migrations_and_upgrades_are_known(fleet, execute):
    execute('CREATE TABLE "towns-bern".alembic_version (); CREATE TABLE "forms-bern".upgrades ()')
    found = {each.schema: (each.has_versions, each.has_upgrades) for each in fleet.customers()}
    assert found == {
        "forms-bern": (False, True),
        "towns-basel": (False, False),
        "towns-bern": (True, False),
    }


def test_numbers(fleet, execute):
    with fleet.manager.schema("towns-bern") as session:
        session.add_all(Document(owner="x" * 1000) for _ in range(100))
    execute('ANALYZE "towns-bern".documents')
    with fleet.connected() as connection:
        found = {each.schema: each for each in read_overview(connection, fleet.customers())}
    bern, basel = found["towns-bern"], found["towns-basel"]
    assert (bern.rows_estimate, basel.rows_estimate) == (100, 0)
    assert bern.tables == basel.tables == len(Base.metadata.tables)
    assert bern.size_bytes > basel.size_bytes > 0
    assert bern.as_dict()["created"] == bern.created.isoformat()


def test_customers_as_json(fleet):
    found = fleet.customer("towns-bern").as_dict()
    assert (found["schema"], found["state"], found["note"]) == ("towns-bern", "active", "")
