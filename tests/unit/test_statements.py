"""What the text of a statement tells about its traces."""

from __future__ import annotations

import pytest

from onegov_orm._statements import Effects, effects_of


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "UPDATE documents SET owner = 'x'",
        "update documents\nset owner = 'x'",
        "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2",
        "SELECT CASE WHEN a THEN 1 ELSE 2 END FROM t",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT 'the start of a commitment'",
        "SAVEPOINT a",
        "ROLLBACK TO SAVEPOINT sa_savepoint_12",
        "SELECT starting FROM events",
    ],
)
def test_ordinary_statements_leave_no_traces(statement):
    assert effects_of(statement) == Effects.NONE


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path TO x",
        "set local search_path = x",
        "/* why */ SET SESSION search_path TO x",
        "SELECT set_config('search_path', 'x', true)",
        "RESET ALL",
        "DISCARD ALL",
        "SET SCHEMA 'x'",
        "SET ROLE x",
        "ROLLBACK; INSERT INTO t VALUES (1)",
        "SELECT 1; COMMIT",
        "ROLLBACK TO SAVEPOINT a",
        "DO $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$",
        "-- hello\nSET search_path TO x",
        "SELECT '--'; SET search_path TO x",
        "ROLLBACK TO SAVEPOINT sa_savepoint_1; SELECT 1",
        "UPDATE pg_settings SET setting = 'x'",
    ],
)
def test_moves_of_the_path_are_seen(statement):
    assert Effects.MOVES_PATH in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SET statement_timeout = 1",
        "set session work_mem = '1MB'",
        "SELECT 1; SET x.y = 'z'",
        "SELECT set_config('app.user', 'ada', false)",
        "PREPARE one AS SELECT 1",
        "DO $$ BEGIN SET x.y = 'z'; END $$",
        "DO $$ BEGIN EXECUTE 'SET x.y = 1'; END $$",
        "SELECT dblink_connect('x')",
        "LOAD 'auto_explain'",
    ],
)
def test_settings_that_stay_are_seen(statement):
    assert Effects.OUTLIVES_TRANSACTION in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL statement_timeout = 1",
        "SET TRANSACTION READ ONLY",
        "SELECT set_config('app.user', 'ada', true)",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_settings_of_the_transaction_do_not_stay(statement):
    assert Effects.OUTLIVES_TRANSACTION not in effects_of(statement)


@pytest.mark.parametrize("statement", ["COMMIT PREPARED 'x'", " rollback prepared 'x'"])
def test_second_phases_run_outside_transactions(statement):
    assert Effects.OUTSIDE_TRANSACTION in effects_of(statement)


def test_long_statements_are_analysed_too():
    assert Effects.MOVES_PATH in effects_of("SELECT 1; " * 3000 + "SET search_path TO x")


@pytest.mark.parametrize(
    "statement", ["ROLLBACK TO x; SELECT 1", "select 1; rollback work to savepoint x ; select 2"]
)
def test_returns_to_a_savepoint_that_go_on_are_seen(statement):
    assert Effects.REVIVES_PATH in effects_of(statement)


@pytest.mark.parametrize("statement", ["ROLLBACK TO x", "ROLLBACK TO x;", "ROLLBACK; SELECT 1"])
def test_returns_to_a_savepoint_alone_are_harmless(statement):
    assert Effects.REVIVES_PATH not in effects_of(statement)
