"""What one customer leaves on a connection never reaches another."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from tests.conftest import DRIVERS, PIPELINE
from tests.models import Base, Document

BERN, BASEL = "towns-bern", "towns-basel"


@pytest.fixture(params=[*DRIVERS, PIPELINE])
def driver(request):
    """Each driver in turn, psycopg 3 in both ways."""
    return request.param


@pytest.fixture
def mgr(dsn, new_manager):
    """A manager with one connection, which all customers share one after the other."""
    mgr = new_manager(dsn, Base, pool_config={"pool_size": 1, "max_overflow": 0})
    for name in (BERN, BASEL):
        with mgr.schema(name) as session:
            session.add(Document(owner=name))
    return mgr


def run(mgr, schema, statement):
    """Run a statement in a schema, and return the first value if there is one."""
    with mgr.schema(schema) as session:
        result = session.execute(text(statement))
        return result.scalar() if result.returns_rows else None


COUNT_TEMPORARY = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
COUNT_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
COUNT_CURSORS = "SELECT count(*) FROM pg_cursors WHERE is_holdable"


@pytest.mark.parametrize(
    ("statement", "question", "clean"),
    [
        ("CREATE TEMPORARY TABLE documents (owner text)", COUNT_TEMPORARY, 0),
        ("LISTEN gossip", "SELECT count(*) FROM pg_listening_channels()", 0),
        ("SELECT pg_advisory_lock(1)", COUNT_LOCKS, 0),
        ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", COUNT_CURSORS, 0),
        ("SET statement_timeout = '77s'", "SHOW statement_timeout", "0"),
        ("SET SESSION work_mem = '1234kB'", "SHOW work_mem", "4MB"),
        ("SELECT set_config('app.user', 'ada', false)", "SELECT current_setting('app.user')", ""),
        (
            "PREPARE mine AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'",
            0,
        ),
    ],
)
def test_traces_are_removed(mgr, statement, question, clean):
    run(mgr, BERN, statement)
    assert run(mgr, BASEL, question) == clean
    run(mgr, BERN, statement)
    with mgr.engine.connect() as connection:
        assert connection.execute(text(question)).scalar() == clean


@pytest.mark.parametrize(
    ("body", "question", "clean"),
    [
        ("CREATE TEMP TABLE documents (owner text)", COUNT_TEMPORARY, 0),
        ("PERFORM pg_advisory_lock(1)", COUNT_LOCKS, 0),
        ("LISTEN gossip", "SELECT count(*) FROM pg_listening_channels()", 0),
    ],
)
def test_traces_of_functions_are_removed(mgr, body, question, clean):
    head = "CREATE FUNCTION secret() RETURNS void LANGUAGE plpgsql AS "
    run(mgr, BERN, f"{head} $$ BEGIN {body}; END $$")
    run(mgr, BERN, "SELECT secret()")
    assert run(mgr, BASEL, question) == clean


def test_a_temporary_table_hides_no_table_of_another_customer(mgr):
    run(mgr, BERN, "CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner")
    assert run(mgr, BASEL, "SELECT owner FROM documents") == BASEL


def test_a_temporary_table_survives_a_rollback_of_the_next_customer(mgr):
    run(mgr, BERN, "CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner")
    with pytest.raises(ZeroDivisionError), mgr.schema(BASEL) as session:
        session.execute(text("SELECT 1"))
        raise ZeroDivisionError
    assert run(mgr, "towns-zug", "SELECT count(*) FROM documents") == 0


def test_the_last_value_of_a_sequence_is_not_told_to_another_customer(mgr):
    run(mgr, BERN, "INSERT INTO documents (owner) VALUES ('towns-bern')")
    with pytest.raises(Exception, match="lastval is not yet defined"):
        run(mgr, BASEL, "SELECT lastval()")


def test_the_last_value_is_known_in_its_own_transaction(mgr):
    with mgr.schema(BERN) as session:
        insert = "INSERT INTO documents (owner) VALUES ('towns-bern') RETURNING id"
        number = session.execute(text(insert)).scalar()
        assert session.execute(text("SELECT lastval()")).scalar() == number


def test_traces_of_autocommit_are_removed(mgr):
    bern = mgr.engine.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")
    with bern.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner"))
        connection.execute(text("SELECT pg_advisory_lock(1)"))
    basel = mgr.engine.execution_options(schema=BASEL, isolation_level="AUTOCOMMIT")
    with basel.connect() as connection:
        assert connection.execute(text("SELECT owner FROM documents")).scalar() == BASEL
        assert connection.execute(text(COUNT_LOCKS)).scalar() == 0


def test_traces_of_a_connection_without_schema_are_removed(mgr):
    with mgr.engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner"))
    assert run(mgr, BASEL, "SELECT owner FROM documents") == BASEL


def test_a_path_that_a_function_moved_in_secret_is_gone_without_a_schema(mgr):
    body = "perform set_config('search' || '_path', '\"towns-bern\"', false)"
    language = "RETURNS void LANGUAGE plpgsql"
    run(mgr, BERN, f"CREATE FUNCTION move() {language} AS $$ BEGIN {body}; END $$")
    run(mgr, BERN, "SELECT move()")
    with mgr.engine.connect() as connection:
        assert "towns" not in connection.scalar(text("SHOW search_path"))


def test_a_clean_connection_is_given_back_without_a_word(mgr):
    statements = []
    event.listen(mgr.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    run(mgr, BERN, "SELECT 1")
    assert statements == ["SELECT 1"]


def test_nothing_is_cleaned_if_the_pool_does_not_reset(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config={"pool_size": 1, "pool_reset_on_return": None})
    run(mgr, BERN, "SET statement_timeout = '77s'")
    assert run(mgr, BASEL, "SHOW statement_timeout") == "0"
