"""Which prepared statement is used for whom."""

from __future__ import annotations

from types import SimpleNamespace

import asyncpg
import pytest

from onegov_orm._differences import Differences
from onegov_orm._plans import MAX_PLANS, Plan, Plans

INT = SimpleNamespace(name="int4", kind="scalar", schema="pg_catalog")
HSTORE = SimpleNamespace(name="hstore", kind="scalar", schema="extensions")
HUE = SimpleNamespace(name="hue", kind="scalar", schema="towns-bern")
HUES = SimpleNamespace(name="hue[]", kind="array", schema="towns-bern")
ROW = SimpleNamespace(name="documents", kind="composite", schema="towns-bern")


class Statement:
    """What asyncpg returns for a prepared statement."""

    def __init__(self, query, columns, parameters):
        self._query = query
        self._columns = [SimpleNamespace(name="x", type=kind) for kind in columns]
        self._parameters = parameters

    def get_query(self):
        return self._query

    def get_attributes(self):
        return self._columns

    def get_parameters(self):
        return self._parameters


def new_plan(query="SELECT 1", schema="a", columns=(INT,), parameters=()):
    return Plan(Statement(query, columns, parameters), schema, "extensions")


@pytest.fixture
def plans():
    return Plans(Differences())


@pytest.mark.parametrize(
    ("query", "columns", "parameters", "is_shared"),
    [
        ("SELECT 1", [INT], [], True),
        ("SELECT x", [HSTORE], [], True),
        ("SELECT x", [HUE], [], False),
        ("SELECT x", [INT, HUES], [], False),
        ("SELECT x", [ROW], [], False),
        ("INSERT", [], [], True),
        ("SELECT $1::INTEGER", [INT], [INT], True),
        ("SELECT $1::hue", [INT], [HUE], False),
        ("SELECT $1::INTEGER, $2", [INT], [INT, INT], False),
        ("SELECT $1", [INT], [INT], False),
        ("SELECT $11::INTEGER, $12::INTEGER", [INT], [INT, INT], True),
        ("SELECT $11", [INT], [INT], False),
        ("SELECT '$1'", [INT], [], False),
    ],
)
def test_who_can_share_a_statement(query, columns, parameters, is_shared):
    assert new_plan(query, "a", columns, parameters).is_shared is is_shared


def test_a_statement_without_types_of_a_schema_is_everybodys(plans):
    plan = new_plan()
    plans.keep(plan)
    assert [plans.find("SELECT 1", schema) for schema in ("a", "b", None)] == [plan] * 3


def test_a_statement_with_types_of_a_schema_is_its_schemas(plans):
    ours, theirs = (new_plan("SELECT x", schema, [HUE]) for schema in ("a", "b"))
    plans.keep(ours)
    assert [plans.find("SELECT x", schema) for schema in ("a", "b", None)] == [ours, None, None]
    plans.keep(theirs)
    assert [plans.find("SELECT x", schema) for schema in ("a", "b", None)] == [ours, theirs, None]


def test_a_statement_of_no_schema_is_for_no_schema(plans):
    plan = new_plan("SELECT x", None, [HUE])
    plans.keep(plan)
    assert [plans.find("SELECT x", schema) for schema in ("a", None)] == [None, plan]


def test_the_text_has_to_be_the_same(plans):
    plans.keep(new_plan())
    assert plans.find("SELECT  1", "a") is None


def test_the_least_recently_used_one_goes(plans):
    for number in range(MAX_PLANS):
        plans.keep(new_plan(f"SELECT {number}"))
    plans.find("SELECT 0", "a")
    plans.keep(new_plan("SELECT"))
    assert plans.find("SELECT 1", "a") is None
    assert plans.find("SELECT 0", "a") is not None
    assert len(plans._plans) == MAX_PLANS


def changed():
    return asyncpg.InvalidCachedStatementError("changed")


def test_a_statement_that_differs_between_schemas_is_kept_for_each(plans):
    plan = new_plan()
    plans.keep(plan)
    plans.forget(plan, changed())
    assert plans.find("SELECT 1", "a") is None
    ours, theirs = (new_plan(schema=schema) for schema in ("a", "b"))
    plans.keep(ours)
    assert [plans.find("SELECT 1", schema) for schema in ("a", "b")] == [ours, None]
    plans.keep(theirs)
    assert [plans.find("SELECT 1", schema) for schema in ("a", "b")] == [ours, theirs]


def test_all_connections_learn_from_a_changed_plan():
    differences = Differences()
    one, other = Plans(Differences()), Plans(Differences())
    for plans in (one, other):
        plans.share(differences)
        plans.keep(new_plan())
        plans.keep(new_plan("SELECT 2"))
    one.forget(one.find("SELECT 1", "a"), changed())
    for plans in (one, other):
        assert plans.find("SELECT 2", "a") is None
        plans.keep(new_plan())
        assert plans.find("SELECT 1", "b") is None


def test_managers_do_not_learn_from_each_other():
    one, other = Plans(Differences()), Plans(Differences())
    for plans in (one, other):
        plans.keep(new_plan())
    one.forget(one.find("SELECT 1", "a"), changed())
    assert other.find("SELECT 1", "b") is not None


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (asyncpg.UniqueViolationError("x"), True),
        (asyncpg.SerializationError("x"), True),
        (asyncpg.DataError("x"), False),
        (asyncpg.UndefinedColumnError("x"), False),
        (asyncpg.InternalServerError("x"), False),
        (asyncpg.OutdatedSchemaCacheError("x"), False),
        (asyncpg.FeatureNotSupportedError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_statement_is_kept_if_its_failure_is_not_its_own(plans, error, is_kept):
    plan = new_plan()
    plans.keep(plan)
    plans.keep(new_plan("SELECT 2"))
    plans.forget(plan, error)
    assert (plans.find("SELECT 1", "a") is not None) is is_kept
    assert plans.find("SELECT 2", "a") is not None


def test_nothing_is_kept_when_the_server_forgot_a_statement(plans):
    plan = new_plan()
    plans.keep(plan)
    plans.keep(new_plan("SELECT 2"))
    plans.forget(plan, asyncpg.InvalidSQLStatementNameError("x"))
    assert [plans.find(query, "a") for query in ("SELECT 1", "SELECT 2")] == [None, None]
