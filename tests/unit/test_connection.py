"""The decisions of a driver connection, without a driver."""

from __future__ import annotations

import pytest

from onegov_orm._connection import IDLE, IN_FAILED_TRANSACTION, IN_TRANSACTION, SchemaState
from onegov_orm._prelude import Prelude
from onegov_orm.errors import ForeignConnection, SearchPathMoved
from onegov_orm.names import SchemaName

BERN = Prelude(SchemaName("towns-bern"))
BASEL = Prelude(SchemaName("towns-basel"))


class State(SchemaState):
    """A connection whose server says what the test wants."""

    status = IDLE
    path: str | None = None

    def _transaction_status(self):
        return self.status

    def _reported_search_path(self):
        return self.path

    def _begin(self):
        return "BEGIN"


@pytest.fixture
def state():
    """A connection of an older server, bound to a schema."""
    state = State()
    state.bind(BERN)
    return state


@pytest.fixture
def reporting(state):
    """A connection of a server that reports the search path, inside a transaction."""
    state._reports_search_path = True
    state.preamble("SELECT 1")
    state.status = IN_TRANSACTION
    state.path = BERN.reported
    return state


def test_a_transaction_begins_with_the_prelude(state):
    assert state.preamble("SELECT 1").endswith(f"BEGIN; {BERN.local};\n")


def test_the_first_use_asks_whether_the_schema_exists(state):
    assert "regnamespace" in state.preamble("SELECT 1")
    assert "regnamespace" not in state.preamble("SELECT 1")


def test_a_fresh_connection_has_nothing_to_be_cleansed_of(state):
    assert "DISCARD" not in state.preamble("SELECT 1")


def test_another_customer_gets_a_cleansed_connection(state):
    state.preamble("SELECT 1")
    state.bind(BASEL)
    assert "DISCARD TEMP" in state.preamble("SELECT 1")


def test_nobody_gets_a_cleansed_connection_too(state):
    state.preamble("SELECT 1")
    state.bind(None)
    assert "DISCARD TEMP" in state.preamble("SELECT 1")


def test_the_same_customer_again_needs_no_cleansing(state):
    state.preamble("SELECT 1")
    assert "DISCARD" not in state.preamble("SELECT 1")


def test_a_failure_makes_the_next_transaction_start_from_scratch(state):
    state.preamble("SELECT 1")
    state.status = IN_FAILED_TRANSACTION
    assert state.preamble("SELECT 1") == ""
    state.status = IDLE
    assert "DISCARD TEMP" in state.preamble("SELECT 1")


def test_inside_a_transaction_nothing_is_due(state):
    state.preamble("SELECT 1")
    state.status = IN_TRANSACTION
    assert state.preamble("SELECT 1") == ""


def test_a_suspicious_statement_makes_the_prelude_due_again(state):
    state.preamble("SELECT 1")
    state.status = IN_TRANSACTION
    assert state.preamble("SET search_path TO x") == ""
    assert state.preamble("SELECT 1") == f"RESET search_path; {BERN.local};\n"
    assert state.preamble("SELECT 1") == ""


def test_another_schema_in_mid_transaction_is_due(state):
    state.preamble("SELECT 1")
    state.status = IN_TRANSACTION
    state.bind(BASEL)
    assert state.preamble("SELECT 1").endswith(f"{BASEL.local};\n")


def test_another_schema_in_mid_transaction_meets_no_temporary_tables(state):
    state.preamble("SELECT 1")
    state.status = IN_TRANSACTION
    state.bind(BASEL)
    assert "DISCARD TEMP" in state.preamble("SELECT 1")
    state.status = IDLE
    assert "DISCARD TEMP" in state.preamble("SELECT 1")


def test_a_reported_path_is_believed(reporting):
    assert reporting.preamble("SET search_path TO x") == ""
    assert reporting.preamble("SELECT 1") == ""


def test_a_moved_path_is_set_again_with_a_warning(reporting, caplog):
    reporting.path = "public"
    assert reporting.preamble("SELECT 1") == f"RESET search_path; {BERN.local};\n"
    assert "moved to public" in caplog.text
    assert caplog.records[0].schema == "towns-bern"


def test_a_moved_path_is_an_error_if_strict(reporting):
    reporting.strict = True
    reporting.path = "public"
    with pytest.raises(SearchPathMoved, match="public") as caught:
        reporting.preamble("SELECT 1")
    assert caught.value.found == "public"


def test_a_connection_of_the_parent_process_is_refused(state):
    state.abandoned = True
    with pytest.raises(ForeignConnection):
        state.preamble("SELECT 1")


def test_without_transactions_the_path_is_set_once_and_reset(state):
    state._wants_autocommit = True
    assert BERN.lasting in state.preamble("SELECT 1")
    assert state.preamble("SELECT 1") == ""
    assert state.cleaning() == "RESET search_path"
    state.was_cleaned()
    assert state.cleaning() == ""


def test_without_transactions_a_failed_setting_is_tried_again(state):
    state._wants_autocommit = True
    state.preamble("SELECT 1")
    state.bind(BASEL)
    state.preamble("SELECT 1")
    state.has_failed()
    assert BASEL.lasting in state.preamble("SELECT 1")


def test_settings_that_stay_are_discarded(state):
    state.preamble("SET statement_timeout = 1")
    assert state.cleaning() == "DISCARD ALL"


def test_cleaning_forgets_the_schema(state):
    state.preamble("SELECT 1")
    state.was_cleaned()
    assert state.preamble("SELECT 1").endswith("BEGIN;\n")


def test_second_phases_get_nothing_in_front(state):
    assert state.preamble("COMMIT PREPARED 'x'") == ""


@pytest.mark.parametrize("schema", ["towns-bern", "select", "a", "_x", "user"])
def test_a_prelude_knows_its_path_quoted_or_not(schema):
    prelude = Prelude(SchemaName(schema))
    assert prelude.matches(f'"{schema}", pg_catalog, extensions')
    assert prelude.matches(f"{schema}, pg_catalog, extensions")
    assert not prelude.matches("public, extensions")
    assert not prelude.matches(schema)
