"""Commands that run migrations: ``migrate``, ``status``, ``downgrade``, ``stamp``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._matrix import FoundOption, show_matrix
from onegov_orm.cli._options import Running, Selection, YesOption
from onegov_orm.cli._panels import MIGRATIONS
from onegov_orm.cli._running import attend, chosen, run, told_count

_RUN_EXITS = (Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.INTERRUPTED, Exit.TERMINATED)

_TARGET_HELP = "The revision: heads, an id or its beginning, +1, branch@head."

TargetOption = Annotated[
    str, typer.Option("--to", metavar="REVISION", show_default=False, help=_TARGET_HELP)
]

NeededTargetOption = Annotated[
    str,
    typer.Option(
        "--to", metavar="REVISION", show_default=False, help="The revision: an id, -1, base."
    ),
]

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the SQL, and run nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "migrate",
        MIGRATIONS,
        examples=(
            "",
            "--dry-run",
            "'towns-*' --canary 3 --wave 100 --workers 8",
            "towns-bern --to ae10",
        ),
        exits=_RUN_EXITS,
    )(migrate)
    command(
        app,
        "status",
        MIGRATIONS,
        examples=("", "--all", "--namespace towns --exit-code", "--json"),
        exits=(Exit.OK, Exit.FOUND, Exit.NOT_FOUND),
    )(status)
    command(
        app,
        "downgrade",
        MIGRATIONS,
        examples=("towns-bern --to -1", "'towns-*' --to ae10 --yes"),
        exits=_RUN_EXITS,
    )(downgrade)
    command(
        app,
        "stamp",
        MIGRATIONS,
        examples=("towns-bern --to heads", "--to ae10 --yes"),
        exits=_RUN_EXITS,
    )(stamp)


def migrate(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    to: TargetOption = "heads",
    dry_run: DryRunOption = False,
) -> Exit:
    """Bring all schemas to the newest revision, or to another one.

    Each schema is a transaction under a lock: it is migrated wholly, or not at all. One that
    fails keeps nobody else from it. An interrupted run, even by kill -9, is continued by the
    next one, which takes what is pending. The first Ctrl-C finishes what is in flight, the
    second one undoes it.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    if dry_run:
        return _show_sql(invocation, selection, lambda names: fleet.migrations.sql(to, names))
    return run(
        invocation, "Migrating", lambda **options: fleet.migrate(to, **options), running,
        schemas=schemas,
    )  # fmt: skip


def status(
    invocation: Invocation,
    selection: Selection,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Show the schemas that lack nothing, too.")
    ] = False,
    exit_code: FoundOption = False,
) -> Exit:
    """Show which schemas lack which revisions; one query tells, whatever their number.

    Many schemas that stand at the same point share a line, unless --all is given. Nothing is
    changed.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    found = attend(invocation, "Looking", lambda: fleet.status(schemas=schemas))
    return show_matrix(
        invocation, found, "revision", list_all=everything, says=exit_code,
        titles=_titles(fleet),
    )  # fmt: skip


def downgrade(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    to: NeededTargetOption,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> Exit:
    """Take revisions back, down to the one that is named.

    What a revision dropped or changed is gone, and what its downgrade drops is lost: it asks,
    and names how many schemas it is about.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    invocation.confirm(f"Downgrade {told_count(schemas)} to {to}? Data may be lost.", yes)
    return run(
        invocation, "Downgrading", lambda **options: fleet.downgrade(to, **options), running,
        schemas=schemas,
    )  # fmt: skip


def stamp(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    to: NeededTargetOption,
    yes: YesOption = False,
) -> Exit:
    """Note that schemas are at a revision, without running anything.

    For schemas that got their tables otherwise. For more than one schema it asks: a wrong
    note makes later migrations fail, or leaves some out.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    if schemas is None or len(schemas) > 1:
        invocation.confirm(f"Stamp {told_count(schemas)} with {to}?", yes)
    return run(
        invocation, "Stamping", lambda **options: fleet.stamp(to, **options), running,
        schemas=schemas,
    )  # fmt: skip


def _titles(fleet: Any) -> dict[str, str]:
    return {}


def _show_sql(invocation: Invocation, selection: Selection, function: Any) -> Exit:
    return Exit.OK
