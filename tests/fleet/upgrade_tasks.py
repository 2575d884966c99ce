"""Upgrade tasks that take their time, and a program that runs them until it is killed."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Column, Text, text

from onegov_orm import SessionManager
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, Result, RunOptions
from onegov_orm.upgrade import UpgradeContext, Upgrades, upgrade_task
from tests.models import Base, Document


@upgrade_task("Add a column before all else", raw=True)
def add_column(connection: Any, schemas: list[str]) -> None:
    connection.execute(text("ALTER TABLE documents ADD COLUMN size integer"))


@upgrade_task("Add a document")
def add_document(context: UpgradeContext) -> None:
    context.session.add(Document(owner=str(context.schema), title="added"))


@upgrade_task("Write the schema's name", requires="Add a document")
def write_name(context: UpgradeContext) -> None:
    context.connection.execute(text("SELECT pg_sleep(0.02)"))
    context.add_column_with_defaults(
        "documents", Column("slug", Text, nullable=False), lambda row: f"{context.schema} {row.id}"
    )


def show(result: Result, *_numbers: int) -> None:
    """Print what was done, and leave out what an earlier run has done."""
    if result.outcome is not Outcome.SKIPPED:
        print(result.outcome, result.schema, flush=True)


if __name__ == "__main__":
    manager = SessionManager(sys.argv[1], Base, upgrades=[])
    upgrades = Upgrades(FleetContext(manager), ["tests.fleet.upgrade_tasks"])
    report = upgrades.upgrade(options=RunOptions(workers=4), on_result=show)
    sys.exit(0 if report.is_ok else 1)
