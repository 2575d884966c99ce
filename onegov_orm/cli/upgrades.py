"""The command about upgrade tasks: ``upgrade``."""

from __future__ import annotations

from typing import Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._matrix import FoundOption, Matrix
from onegov_orm.cli._options import Running, Selection
from onegov_orm.cli._panels import MIGRATIONS
from onegov_orm.cli._running import attend, chosen, run


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "upgrade",
        MIGRATIONS,
        examples=("", "--dry-run", "'towns-*' --canary 3 --fail-fast", "--status --exit-code"),
        exits=(Exit.OK, Exit.FAILED, Exit.FOUND, Exit.NOT_FOUND, Exit.INTERRUPTED),
    )(upgrade)


def upgrade(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--status", help="Show what would run, and run nothing.")
    ] = False,
    exit_code: FoundOption = False,
) -> Exit:
    """Run the pending upgrade tasks: the changes of data and schema that are written in Python.

    Each schema is a transaction: it has all its tasks behind it or none. An interrupted or
    failed run is continued by the next one.
    """
    fleet = invocation.fleet(needs_models=True)
    schemas = chosen(invocation, selection)
    if dry_run:
        found = attend(invocation, "Looking", lambda: fleet.upgrade_status(schemas=schemas))
        matrix = Matrix("task", found, [each.as_dict() for each in found])
        return matrix.show(invocation.output, list_all=running.verbose, says=exit_code)
    return run(invocation, "Upgrading", fleet.upgrade, running, schemas=schemas)
