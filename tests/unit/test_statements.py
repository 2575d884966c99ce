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


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT; SELECT 1",
        "select 1; commit work; select 2",
        "END; BEGIN; SELECT 1",
        "ABORT; SELECT 1",
        "ROLLBACK; SELECT 1",
        "ROLLBACK AND CHAIN; SELECT 1",
        "PREPARE TRANSACTION 'x'; SELECT 1",
        "COMMIT/**/;/**/SELECT 1",
        "COMMIT -- ;\n; SELECT 1",
        "/* /* */ */ COMMIT; SELECT 1",
        "SELECT $$'$$; COMMIT; SELECT $$'$$",
        "SELECT $a$ $$ $a$; COMMIT; SELECT $a$ $$ $a$",
        "SELECT 1 AS a$b$; COMMIT; SELECT 1 AS a$b$",
        "SELECT E'\\''; COMMIT; SELECT ''",
        "SELECT E'a'\n'\\''; COMMIT; SELECT ''",
        # without standard_conforming_strings
        "SELECT 'a\\', '; COMMIT; SELECT 1; --'",
        "SET TRANSACTION READ WRITE",
        "SET TRANSACTION READ/**/WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        "BEGIN READ WRITE",
        "START TRANSACTION READ WRITE",
        "SET transaction_read_only = off",
        "SET LOCAL default_transaction_read_only TO 'off'",
        "RESET transaction_read_only",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT; SELECT 1",
    ],
)
def test_ways_out_of_the_transaction_are_seen(statement):
    assert Effects.ESCAPES in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "COMMIT;",
        "COMMIT; -- that is all",
        "ROLLBACK TO a; SELECT 1",
        "ROLLBACK WORK TO SAVEPOINT a; SELECT 1",
        "COMMIT PREPARED 'x'",
        "DO $$ BEGIN PERFORM 1; END; $$",
        "DO $$ BEGIN PERFORM 1; END $$; SELECT 1",
        "SELECT CASE WHEN a THEN 1 END; SELECT 2",
        "SELECT 'COMMIT; SELECT 1'",
        "SELECT 'read write'",
        'SELECT 1 AS "end"; SELECT "commit"',
        "SELECT 1 /* ; COMMIT; SELECT 1 */",
        "SELECT can_read, write FROM rights",
        "SHOW transaction_read_only",
        "SET TRANSACTION READ ONLY",
        "SET transaction_read_only = on",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; SELECT 1",
        "SELECT '",
        "SELECT /* COMMIT; SELECT 1",
    ],
)
def test_what_only_looks_like_a_way_out(statement):
    assert Effects.ESCAPES not in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "DECLARE rows CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE a ()",
        "create temporary table a ()",
        "CREATE TEMP VIEW a AS SELECT 1",
        "CREATE/**/TEMP/**/TABLE a ()",
        "SELECT 1 AS one INTO TEMP a",
    ],
)
def test_what_outlives_its_transaction_is_seen(statement):
    assert Effects.NEEDS_SESSION in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_advisory_xact_lock(1)",
        "DECLARE rows CURSOR FOR SELECT 1",
        "CREATE TEMP TABLE a () ON COMMIT DROP",
        "SELECT temp FROM weather",
        "CREATE TABLE a ()",
    ],
)
def test_what_ends_with_its_transaction_needs_no_session(statement):
    assert Effects.NEEDS_SESSION not in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    ["PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "SELECT 1; rollback/**/prepared 'x'"],
)
def test_second_phases_are_seen(statement):
    assert Effects.TWO_PHASES in effects_of(statement)


@pytest.mark.parametrize(
    "statement",
    ["SET/**/SCHEMA 'x'", "SELECT 1; SET -- why\nSCHEMA 'x'", "ROLLBACK/**/TO a", "END/**/"],
)
def test_comments_hide_no_move_of_the_path(statement):
    assert Effects.MOVES_PATH in effects_of(statement)


def test_comments_hide_no_return_to_a_savepoint():
    assert Effects.REVIVES_PATH in effects_of("ROLLBACK/**/TO a;/**/SELECT 1")
