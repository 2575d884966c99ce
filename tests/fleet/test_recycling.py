"""A connection is closed after a number of customers: what the server keeps of them is bounded."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from onegov_orm import ConfigurationError, SessionManager
from tests.asynchronous import ONE_CONNECTION, in_loop, new_async_manager
from tests.models import Base

PID = text("SELECT pg_backend_pid()")
TOWNS = ["towns-bern", "towns-basel", "towns-chur", "towns-thun", "towns-zug"]
SETTINGS = {"pool_config": ONE_CONNECTION, "max_schemas_per_connection": 2}


def backends(mgr, towns):
    found = []
    for town in towns:
        with mgr.schema(town) as session:
            found.append(session.scalar(PID))
    return found


def test_after_two_customers_there_is_another_connection(new_manager, dsn):
    mgr = new_manager(dsn, Base, **SETTINGS)
    for town in TOWNS:
        mgr.ensure_schema_exists(town)
    found = backends(mgr, TOWNS)
    assert 3 <= len(set(found)) <= 4
    assert all(found.count(pid) <= 2 for pid in found)


def test_the_same_customers_keep_their_connection(new_manager, plain_dsn):
    mgr = new_manager(plain_dsn, Base, pool_config=ONE_CONNECTION, max_schemas_per_connection=4)
    for town in TOWNS[:2]:
        mgr.ensure_schema_exists(town)
    assert len(set(backends(mgr, TOWNS[:2] * 10))) == 1


def test_a_connection_without_a_pool_is_closed_too(new_manager, plain_dsn):
    mgr = new_manager(
        plain_dsn, Base, pool_config={"poolclass": NullPool}, max_schemas_per_connection=1
    )
    assert len(set(backends(mgr, TOWNS))) == len(TOWNS)


@in_loop
async def test_asynchronous_connections_too(async_dsn):
    mgr = new_async_manager(async_dsn, Base, **SETTINGS)
    found = []
    for town in TOWNS:
        async with mgr.schema(town) as session:
            found.append(await session.scalar(PID))
    assert all(found.count(pid) <= 2 for pid in found)
    assert len(set(found)) >= 3


def test_less_than_one_customer_is_refused(plain_dsn):
    with pytest.raises(ConfigurationError, match="max_schemas_per_connection"):
        SessionManager(plain_dsn, Base, max_schemas_per_connection=0)
