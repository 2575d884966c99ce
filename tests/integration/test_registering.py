"""Engines and sessions of the caller's own, in the hands of a manager."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from onegov_orm import ConfigurationError, NoCurrentSchema
from tests.models import Base, Document


@pytest.fixture
def mgr(plain_dsn, new_manager):
    """A manager with a document in each of two towns."""
    mgr = new_manager(plain_dsn, Base)
    for name in ("towns-bern", "towns-basel"):
        with mgr.schema(name) as session:
            session.add(Document(owner=name))
    return mgr


def test_the_factory_makes_sessions_of_the_current_schema(mgr):
    mgr.set_current_schema("towns-bern")
    session = mgr.session_factory()
    assert session.info == {"schema": "towns-bern"}
    assert session.query(Document).one().owner == "towns-bern"
    transaction.abort()


def test_the_factory_guesses_no_schema(mgr):
    with pytest.raises(NoCurrentSchema):
        mgr.session_factory()


def test_a_session_of_the_callers_can_be_bound(mgr):
    mgr.set_current_schema("towns-bern")
    session = mgr.bind_session(Session())
    assert session.info == {"schema": "towns-bern"}
    assert session.query(Document).one().owner == "towns-bern"
    session.close()


def test_a_session_in_use_is_not_bound_to_another_schema(mgr):
    mgr.set_current_schema("towns-bern")
    session = mgr.bind_session(Session())
    session.query(Document).one()
    mgr.set_current_schema("towns-basel")
    with pytest.raises(ConfigurationError, match="in use"):
        mgr.bind_session(session)
    session.close()
    assert mgr.bind_session(session).query(Document).one().owner == "towns-basel"
    session.close()


def test_a_registered_factory_takes_part_in_transactions_and_signals(mgr):
    heard = []

    def hear(schema, obj):
        heard.append((schema, obj.owner))

    mgr.on_insert.connect(hear)
    factory = sessionmaker()
    mgr.register_session(factory)
    mgr.set_current_schema("towns-bern")
    mgr.bind_session(factory()).add(Document(owner="towns-bern"))
    transaction.commit()
    assert heard == [("towns-bern", "towns-bern")]
    assert mgr.session().query(Document).count() == 2


def test_a_registered_engine_switches_like_the_managers_own(mgr, plain_dsn):
    engine = sa.create_engine(plain_dsn.replace("postgresql:", "postgresql+psycopg2:"))
    mgr.register_engine(engine)
    for name in ("towns-bern", "towns-basel"):
        with engine.execution_options(schema=name).connect() as connection:
            assert connection.execute(text("SELECT owner FROM documents")).scalar() == name
    engine.dispose()


def test_connections_from_before_the_registration_are_refused(mgr, plain_dsn):
    engine = sa.create_engine(plain_dsn.replace("postgresql:", "postgresql+psycopg2:"))
    engine.connect().close()
    mgr.register_engine(engine)
    with pytest.raises(ConfigurationError, match="dispose"):
        engine.execution_options(schema="towns-bern").connect().execute(text("SELECT 1"))
    engine.dispose()
