"""A manager is disposed while other threads wait for the server."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm import SessionManager
from tests.conftest import Execute
from tests.models import Base
from tests.replication import wait_until


def test_who_waits_for_an_answer_hears_that_there_is_none(
    dsn: str,
    new_manager: Callable[..., SessionManager],
    outside: Callable[[str], Execute],
) -> None:
    mgr = new_manager(dsn, Base, transaction_manager=None)
    mgr.ensure_schema_exists("towns-bern")
    errors = []

    def wait_long() -> None:
        try:
            with mgr.schema("towns-bern") as session:
                session.execute(text("SELECT pg_sleep(60)"))
        except DBAPIError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait_long) for _ in range(3)]
    for thread in threads:
        thread.start()
    execute = outside(dsn)
    asleep = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    wait_until(lambda: execute(asleep) == [(3,)], "they do not wait")
    mgr.dispose()
    for thread in threads:
        thread.join(20)
    assert [error.connection_invalidated for error in errors] == [True] * 3


def test_who_begins_just_now_comes_to_no_harm(
    dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    mgr = new_manager(dsn, Base, transaction_manager=None)
    mgr.ensure_schema_exists("towns-bern")
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                with mgr.schema("towns-bern") as session:
                    session.execute(text("SELECT 1"))
            except DBAPIError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        mgr.dispose()
    is_over.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
