"""Every statement of a session runs in its schema, whatever happens around it."""

from __future__ import annotations

import gc
import io

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, ProgrammingError

from onegov_orm import ConfigurationError, SchemaNotFound, SearchPathMoved
from tests.conftest import DRIVERS, PIPELINE
from tests.models import Base, Color, Document

BERN, BASEL = "towns-bern", "towns-basel"
OWNERS = text("SELECT owner FROM documents ORDER BY owner")


@pytest.fixture(params=[*DRIVERS, PIPELINE])
def driver(request):
    """Each driver in turn, psycopg 3 in both ways."""
    return request.param


@pytest.fixture
def mgr(dsn, new_manager):
    """A manager with one connection, and one document in each of two towns."""
    mgr = new_manager(dsn, Base, pool_config={"pool_size": 1, "max_overflow": 0})
    for name in (BERN, BASEL):
        with mgr.schema(name) as session:
            session.add(Document(owner=name))
    return mgr


def path_of(session):
    """Return the search path as the server sees it."""
    return session.execute(text("SHOW search_path")).scalar()


def owners(session):
    """Return the owners of all rows that the session sees."""
    return session.scalars(OWNERS).all()


def raw(session):
    """Return the driver's connection of a session."""
    return session.connection().connection.driver_connection


def test_the_path_holds_schema_and_extensions(mgr):
    with mgr.schema(BERN) as session:
        assert path_of(session).replace('"', "") == "towns-bern, pg_catalog, extensions"


def test_after_commit_rollback_and_savepoint(mgr):
    mgr.set_current_schema(BERN)
    for end in (transaction.commit, transaction.abort, transaction.commit):
        session = mgr.session()
        savepoint = transaction.savepoint()
        session.execute(text("INSERT INTO documents (owner) VALUES ('towns-bern')"))
        savepoint.rollback()
        assert owners(session) == [BERN]
        end()


def test_two_sessions_side_by_side(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    mgr.set_current_schema(BERN)
    bern = mgr.session()
    mgr.set_current_schema(BASEL)
    basel = mgr.session()
    for _ in range(3):
        bern.add(Document(owner=BERN))
        basel.add(Document(owner=BASEL))
        bern.flush()
        basel.flush()
    assert owners(bern) == [BERN] * 3
    assert owners(basel) == [BASEL] * 3


def test_a_connection_without_a_schema_sees_no_customer(mgr):
    with mgr.schema(BERN) as session:
        session.execute(text("SELECT 1"))
    with mgr.engine.connect() as connection:
        assert "towns" not in connection.execute(text("SHOW search_path")).scalar_one()
        with pytest.raises(ProgrammingError):
            connection.execute(OWNERS)


def test_a_connection_without_a_schema_can_create_nothing_by_accident(mgr):
    with mgr.engine.connect() as connection, pytest.raises(DBAPIError):
        connection.execute(text("CREATE TABLE stray ()"))


def test_raw_connections_of_the_engine_have_transactions(mgr, outside, dsn):
    connection = mgr.engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE public.stray ()")
    connection.rollback()
    connection.close()
    assert outside(dsn)("SELECT to_regclass('public.stray')") == [(None,)]


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
def test_text_that_ends_the_transaction_reaches_no_schema(mgr, ending):
    with mgr.schema(BASEL) as session:
        session.execute(text("SELECT 1"))
    session = None
    try:
        with mgr.schema(BERN) as session:
            insert = "INSERT INTO documents (owner) VALUES ('stray')"
            session.connection().exec_driver_sql(f"{ending}; {insert}")
    except DBAPIError:
        session = None
    for name in (BERN, BASEL):
        with mgr.schema(name) as session:
            assert owners(session) == [name]


def test_after_text_ended_the_transaction_the_next_statement_is_at_home(mgr):
    with mgr.schema(BERN) as session:
        session.connection().exec_driver_sql("ROLLBACK")
        assert owners(session) == [BERN]
        session.connection().exec_driver_sql("COMMIT")
        assert owners(session) == [BERN]


@pytest.mark.parametrize(
    "move",
    [
        "SET search_path TO 'towns-basel'",
        "SET LOCAL search_path TO 'towns-basel'",
        "SELECT set_config('search_path', 'towns-basel', false)",
        "SELECT set_config('search_path', 'towns-basel', true)",
        "RESET search_path",
        "RESET ALL",
        "SET SCHEMA 'towns-basel'",
        "DO $$ BEGIN PERFORM set_config('search_path', 'towns-basel', false); END $$",
    ],
)
def test_a_moved_path_is_set_again(mgr, move):
    with mgr.schema(BERN) as session:
        session.execute(text(move))
        assert owners(session) == [BERN]
        savepoint = session.begin_nested()
        session.execute(text(move))
        savepoint.rollback()
        assert owners(session) == [BERN]
    with mgr.engine.connect() as connection:
        assert "towns" not in connection.execute(text("SHOW search_path")).scalar_one()


def test_a_function_that_moves_the_path_is_seen_by_new_servers(newest, driver, new_manager):
    name = newest.create()
    mgr = new_manager(newest.server.dsn(name, driver=driver.partition("-")[0], tcp=False), Base)
    move = "CREATE FUNCTION move() RETURNS text LANGUAGE sql AS "
    body = "$$ SELECT set_config('search_path', 'towns-basel', false) $$"
    with mgr.schema(BASEL) as session:
        session.add(Document(owner=BASEL))
    with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN))
        session.flush()
        session.execute(text(move + body))
        session.execute(text("SELECT move()"))
        assert owners(session) == [BERN]


def test_a_moved_path_is_an_error_if_strict(newest, driver, new_manager):
    name = newest.create()
    mgr = new_manager(
        newest.server.dsn(name, driver=driver.partition("-")[0], tcp=False), Base, strict=True
    )
    with pytest.raises(SearchPathMoved), mgr.schema(BERN) as session:
        session.execute(text("SET search_path TO public"))
        session.execute(text("SELECT 1"))


def test_server_side_cursors(mgr):
    with mgr.schema(BERN) as session:
        session.add_all(Document(owner=BERN) for _ in range(50))
    with mgr.schema(BERN) as session:
        result = session.scalars(sa.select(Document).execution_options(yield_per=7))
        assert [d.owner for d in result] == [BERN] * 51
    with mgr.schema(BASEL) as session:
        result = session.connection().execute(OWNERS, execution_options={"stream_results": True})
        assert result.scalars().all() == [BASEL]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_side_cursor_left_half_read(mgr):
    with mgr.schema(BERN) as session:
        session.add_all(Document(owner=BERN) for _ in range(50))
    for _ in range(3):
        mgr.set_current_schema(BERN)
        result = mgr.session().scalars(sa.select(Document).execution_options(yield_per=7))
        assert next(result).owner == BERN
        transaction.abort()
        mgr.set_current_schema(BASEL)
        assert owners(mgr.session()) == [BASEL]
        transaction.abort()
        del result
        gc.collect()


def test_executemany(mgr):
    rows = [{"owner": BERN} for _ in range(3)]
    with mgr.schema(BERN) as session:
        session.execute(text("INSERT INTO documents (owner) VALUES (:owner)"), rows)
        assert owners(session) == [BERN] * 4


def test_executemany_of_the_driver(mgr):
    with mgr.schema(BERN) as session:
        cursor = raw(session).cursor()
        cursor.executemany("INSERT INTO documents (owner) VALUES (%s)", [(BERN,), (BERN,)])
        assert owners(session) == [BERN] * 3


def test_copy(mgr, driver):
    with mgr.schema(BERN) as session:
        cursor = raw(session).cursor()
        statement = "COPY documents (owner) FROM STDIN"
        if driver == "psycopg2":
            cursor.copy_expert(statement, io.StringIO(f"{BERN}\n{BERN}\n"))
        else:
            with cursor.copy(statement) as copy:
                copy.write_row((BERN,))
                copy.write_row((BERN,))
        assert owners(session) == [BERN] * 3


def test_raw_cursors_of_the_session(mgr):
    with mgr.schema(BERN) as session:
        cursor = raw(session).cursor()
        cursor.execute("INSERT INTO documents (owner) VALUES ('towns-bern')")
        cursor.execute("SELECT owner FROM documents")
        assert cursor.fetchall() == [(BERN,), (BERN,)]
    with mgr.schema(BERN) as session:
        assert owners(session) == [BERN] * 2


def test_a_commit_of_the_driver_keeps_the_schema(mgr):
    with mgr.schema(BERN) as session:
        connection = raw(session)
        connection.commit()
        cursor = connection.cursor()
        cursor.execute("SELECT owner FROM documents")
        assert cursor.fetchall() == [(BERN,)]


def test_autocommit(mgr):
    bern = mgr.engine.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")
    with bern.connect() as connection:
        connection.execute(text("INSERT INTO documents (owner) VALUES ('towns-bern')"))
        connection.exec_driver_sql("VACUUM documents")
        connection.exec_driver_sql("SET search_path TO public")
        assert connection.execute(OWNERS).scalars().all() == [BERN] * 2
    with mgr.engine.connect() as connection:
        assert "towns" not in connection.execute(text("SHOW search_path")).scalar_one()
    with mgr.schema(BASEL) as session:
        assert owners(session) == [BASEL]


def test_autocommit_of_a_session(mgr):
    mgr.set_current_schema(BERN)
    session = mgr.session()
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    session.execute(text("INSERT INTO documents (owner) VALUES ('towns-bern')"))
    transaction.abort()
    assert owners(mgr.session()) == [BERN] * 2


def test_another_schema_on_the_same_connection(mgr):
    with mgr.engine.connect() as connection:
        for name in (BERN, BASEL, BERN):
            connection = connection.execution_options(schema=name)
            assert connection.execute(OWNERS).scalars().all() == [name]


def test_the_connection_of_a_session_stays_in_its_schema(mgr):
    with pytest.raises(ConfigurationError, match="towns-basel"), mgr.schema(BERN) as session:
        session.connection(execution_options={"schema": BASEL})


def test_two_phases(dsn, new_manager):
    mgr = new_manager(dsn, Base, session_config={"twophase": True})
    for name in (BERN, BASEL):
        mgr.set_current_schema(name)
        mgr.session().add(Document(owner=name))
    transaction.commit()
    for name in (BERN, BASEL):
        mgr.set_current_schema(name)
        assert owners(mgr.session()) == [name]
    transaction.abort()


def test_a_connection_that_was_killed_in_mid_transaction(mgr, dsn, outside):
    mgr.set_current_schema(BERN)
    session = mgr.session()
    session.add(Document(owner="lost"))
    session.flush()
    kill_all(outside(dsn))
    with pytest.raises(OperationalError):
        session.execute(OWNERS)
    transaction.abort()
    assert owners(mgr.session()) == [BERN]


def test_a_connection_that_was_killed_while_it_idled_costs_no_error(mgr, dsn, outside):
    execute = outside(dsn)
    for name in (BERN, BASEL, BERN):
        kill_all(execute)
        with mgr.schema(name) as session:
            assert owners(session) == [name]


def test_a_schema_that_is_gone_runs_no_statement(mgr, dsn, outside):
    with mgr.schema("towns-gone") as session:
        session.execute(text("SELECT 1"))
    with mgr.schema(BERN) as session:
        session.execute(text("SELECT 1"))
    outside(dsn)('DROP SCHEMA "towns-gone" CASCADE')
    with pytest.raises(SchemaNotFound), mgr.schema("towns-gone") as session:
        session.execute(text("CREATE TABLE stray ()"))
    assert outside(dsn)("SELECT relname FROM pg_class WHERE relname = 'stray'") == []


def test_the_commit_of_a_failed_transaction_is_an_error(mgr):
    mgr.set_current_schema(BERN)
    session = mgr.session()
    session.execute(text("INSERT INTO documents (owner) VALUES ('lost')"))
    with pytest.raises(ProgrammingError):
        session.connection().execute(text("SELECT nonsense"))
    with pytest.raises(InternalError, match="nothing was committed"):
        transaction.commit()
    transaction.abort()
    assert owners(mgr.session()) == [BERN]


def test_errors_show_the_statement_alone(mgr):
    with pytest.raises(ProgrammingError) as caught, mgr.schema(BERN) as session:
        session.execute(text("SELECT nonsense FROM documents"))
    assert "search_path" not in str(caught.value)


def test_percent_signs_and_parameters(mgr):
    with mgr.schema(BERN) as session:
        statement = "SELECT owner LIKE 'towns-%%' AND owner = %(owner)s FROM documents"
        found = session.connection().exec_driver_sql(statement, {"owner": BERN})
        assert found.scalar() is True


def kill_all(execute):
    """Terminate the other backends of the database, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database()"
    others += " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


def test_plans_of_one_customer_serve_no_other(mgr):
    for name in (BERN, BASEL, BERN):
        for _ in range(8):
            with mgr.schema(name) as session:
                session.add(Document(owner=name, color=Color.RED))
                session.flush()
                assert session.scalars(sa.select(Document.color)).all()[-1] is Color.RED


def test_a_setting_that_stays_costs_no_plan_of_the_driver(mgr):
    for _ in range(8):
        with mgr.schema(BERN) as session:
            session.execute(text("SET statement_timeout = '77s'"))
            assert owners(session) == [BERN]


def test_a_result_that_outlived_its_transaction_hurts_nobody(mgr):
    with mgr.schema(BERN) as session:
        session.add_all(Document(owner=BERN) for _ in range(50))
    mgr.set_current_schema(BERN)
    late = mgr.session().scalars(sa.select(Document).execution_options(yield_per=7))
    next(late)
    transaction.abort()
    with mgr.schema(BASEL) as session:
        assert owners(session) == [BASEL]
        with pytest.raises(DBAPIError):
            late.all()
        late.close()
        assert owners(session) == [BASEL]


def test_a_cursor_kept_beyond_its_session_is_refused(mgr):
    with mgr.schema(BERN) as session:
        cursor = raw(session).cursor()
    with pytest.raises(Exception, match="given back to the pool"):
        cursor.execute("SELECT 1")
    with mgr.schema(BASEL) as session:
        assert owners(session) == [BASEL]


def test_a_path_moved_for_the_connection_is_noticed_on_return(newest, driver, new_manager):
    name = newest.create()
    dsn = newest.server.dsn(name, driver=driver.partition("-")[0], tcp=False)
    mgr = new_manager(dsn, Base, pool_config={"pool_size": 1, "max_overflow": 0})
    head = "CREATE FUNCTION move() RETURNS text LANGUAGE sql AS "
    with mgr.schema(BERN) as session:
        session.execute(text(f"{head} $$ SELECT set_config('search_path', 'x', false) $$"))
    with mgr.schema(BERN) as session:
        session.execute(text("SELECT move()"))
    with mgr.engine.connect() as connection:
        path = connection.execute(text("SHOW search_path")).scalar()
        assert path.replace(" ", "") == "pg_catalog,extensions"


@pytest.mark.parametrize(
    "move",
    [
        "SELECT '--'; SET LOCAL SCHEMA 'towns-basel'",
        "SELECT '/*'; /* */ SET search_path TO 'towns-basel'",
        "SET LOCAL U&\"search\\005fpath\" TO 'towns-basel'",
        "UPDATE pg_settings SET setting = 'towns-basel' WHERE name = 'search_path'",
    ],
)
def test_hidden_moves_of_the_path(mgr, move):
    with mgr.schema(BERN) as session:
        session.connection().exec_driver_sql(move)
        assert owners(session) == [BERN]
    with mgr.engine.connect() as connection:
        assert "towns" not in connection.execute(text("SHOW search_path")).scalar_one()


def test_leaving_a_schema_in_mid_transaction(mgr):
    with mgr.engine.connect() as connection:
        inside = connection.execution_options(schema=BERN)
        assert inside.execute(OWNERS).scalars().all() == [BERN]
        outside = inside.execution_options(schema=None)
        assert "towns" not in outside.execute(text("SHOW search_path")).scalar_one()


def test_autocommit_and_transactions_on_the_same_connection(mgr):
    with mgr.engine.connect() as connection:
        connection = connection.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")
        assert connection.execute(OWNERS).scalars().all() == [BERN]
        connection.commit()
        connection = connection.execution_options(schema=None, isolation_level="SERIALIZABLE")
        assert "towns" not in connection.execute(text("SHOW search_path")).scalar_one()


@pytest.mark.parametrize("between", [["SELECT 1"], []])
def test_a_savepoint_with_another_path_is_not_revived(mgr, between):
    move = "SET LOCAL search_path TO 'towns-basel'; SAVEPOINT x"
    insert = "INSERT INTO documents (owner) VALUES ('towns-bern')"
    with pytest.raises(SearchPathMoved), mgr.schema(BERN) as session:
        session.connection().execute(text("SELECT 1"))
        for statement in (move, *between, f"ROLLBACK TO SAVEPOINT x; {insert}"):
            session.connection().exec_driver_sql(statement)
    for name in (BERN, BASEL):
        with mgr.schema(name) as session:
            assert owners(session) == [name]


def test_a_savepoint_of_a_text_is_fine_otherwise(mgr):
    with mgr.schema(BERN) as session:
        session.connection().exec_driver_sql("SAVEPOINT x")
        insert = "INSERT INTO documents (owner) VALUES ('towns-bern')"
        session.connection().exec_driver_sql(f"ROLLBACK TO SAVEPOINT x; {insert}")
        assert owners(session) == [BERN] * 2
