"""What a session does in a schema that is renamed or dropped meanwhile, reaches nobody else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm import OrmError
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from tests.asynchronous import ONE_CONNECTION, in_loop, settle
from tests.models import Base

BERN, BASEL = "towns-bern", "towns-basel"

#: Statements that make something without naming a schema. Functions and types, which have no
#: rows, a superuser can make even where all others can't.
MAKES = (
    "CREATE TABLE leak AS SELECT 'bern' AS owner",
    "SELECT 'bern' AS owner INTO leak",
    "CREATE VIEW leak AS SELECT 'bern' AS owner",
    "CREATE SEQUENCE leak",
    "DO $$ BEGIN EXECUTE 'CREATE TABLE leak (owner text)'; END $$",
)

LEAKS = """
    SELECT relname::text FROM pg_class WHERE relname = 'leak'
    UNION ALL SELECT proname::text FROM pg_proc WHERE proname = 'leak'
    UNION ALL SELECT typname::text FROM pg_type WHERE typname = 'leak'
"""


@pytest.mark.parametrize("sql", MAKES)
def test_nothing_is_made_for_all_customers(new_manager, plain_dsn, outside, sql):
    """Its connection was admitted a moment ago, and is not asked about again."""
    mgr = new_manager(plain_dsn, Base, pool_config=ONE_CONNECTION, transaction_manager=None)
    for town in (BASEL, BERN):
        with mgr.schema(town) as session:
            session.execute(text("SELECT 1"))
    outside(plain_dsn)(f'ALTER SCHEMA "{BERN}" RENAME TO "towns-thun"')
    with pytest.raises(DBAPIError), mgr.schema(BERN) as session:
        session.execute(text(sql))
    assert outside(plain_dsn)(LEAKS) == []


def test_neither_in_the_middle_of_a_transaction(new_manager, dsn, outside):
    mgr = new_manager(dsn, Base, transaction_manager=None)
    mgr.ensure_schema_exists(BERN)
    with suppress(DBAPIError, OrmError), mgr.schema(BERN) as session:
        session.execute(text("SELECT 1"))
        lifecycle.drop(FleetContext(new_manager(dsn, Base)), BERN)
        session.execute(text(MAKES[0]))
    assert outside(dsn)(LEAKS) == []


@in_loop
async def test_neither_by_asynchronous_sessions(async_dsn, new_async_manager, outside):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    async with mgr.schema(BERN) as session:
        await session.execute(text("SELECT 1"))
    outside(async_dsn)(f'DROP SCHEMA "{BERN}" CASCADE')
    with pytest.raises(DBAPIError):
        async with mgr.schema(BERN) as session:
            await session.execute(text(MAKES[0]))
    assert outside(async_dsn)(LEAKS) == []
