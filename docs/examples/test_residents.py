"""Tests of an application: one server for all, a database for each test."""

from collections.abc import Iterator

import pytest
import transaction
from sqlalchemy import select

from docs.examples.getting_started import Base, Resident
from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        # Extensions take the longest: they are made once, and copied with the template.
        mgr = SessionManager(server.create_database("template"), Base)
        mgr.create_required_extensions()
        mgr.dispose()
        yield server


@pytest.fixture
def mgr(server: EmbeddedServer) -> Iterator[SessionManager]:
    mgr = SessionManager(server.create_database("test", template="template"), Base)
    yield mgr
    transaction.abort()
    mgr.dispose()
    server.drop_database("test")


def test_towns_do_not_see_each_other(mgr: SessionManager) -> None:
    with mgr.schema("towns-bern") as session:
        session.add(Resident(name="Ada"))
    with mgr.schema("towns-zurich") as session:
        assert session.scalars(select(Resident)).all() == []


def test_the_next_test_starts_anew(mgr: SessionManager) -> None:
    assert mgr.list_schemas() == []
