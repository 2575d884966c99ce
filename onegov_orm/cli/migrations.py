"""Commands that run migrations: ``migrate``, ``status``, ``downgrade``, ``stamp``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._matrix import FoundOption, Matrix
from onegov_orm.cli._options import Running, Selection, YesOption
from onegov_orm.cli._panels import MIGRATIONS
from onegov_orm.cli._running import attend, chosen, run, told_names

if TYPE_CHECKING:
    from onegov_orm.fleet import Fleet

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

ReplayOption = Annotated[
    bool,
    typer.Option(
        "--replay/--live", help="Send what revisions send, or have Alembic run each of them."
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
    replay: ReplayOption = True,
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
        return _show_sql(invocation, fleet, schemas, to)
    function = partial(fleet.migrate, to, replay=replay)
    return run(invocation, "Migrating", function, running, schemas=schemas)


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
    titles = {} if found.is_current else _titles(fleet)
    matrix = Matrix("revision", found.schemas, found.as_dict(), titles)
    return matrix.show(invocation.output, list_all=everything, says=exit_code)


def downgrade(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    to: NeededTargetOption,
    replay: ReplayOption = True,
    yes: YesOption = False,
) -> Exit:
    """Take revisions back, down to the one that is named.

    What a revision dropped or changed is gone, and what its downgrade drops is lost: it asks,
    and names how many schemas it is about.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    invocation.confirm(f"Downgrade {told_names(schemas)} to {to}? Data may be lost.", yes)
    function = partial(fleet.downgrade, to, replay=replay)
    return run(invocation, "Downgrading", function, running, schemas=schemas)


def stamp(
    invocation: Invocation,
    selection: Selection,
    running: Running,
    to: NeededTargetOption,
    purge: Annotated[
        bool, typer.Option("--purge", help="Forget what they were at, unknown revisions too.")
    ] = False,
    yes: YesOption = False,
) -> Exit:
    """Note that schemas are at a revision, without running anything.

    For schemas that got their tables otherwise. For more than one schema it asks: a wrong
    note makes later migrations fail, or leaves some out.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    if schemas is None or len(schemas) > 1:
        invocation.confirm(f"Stamp {told_names(schemas)} with {to}?", yes)
    function = partial(fleet.stamp, to, purge=purge)
    return run(invocation, "Stamping", function, running, schemas=schemas)


def _titles(fleet: Fleet) -> dict[str, str]:
    """Return what the revisions are about."""
    return {script.revision: script.doc.rstrip(".") for script in fleet.migrations.history()}


def _show_sql(
    invocation: Invocation, fleet: Fleet, schemas: list[str] | None, target: str
) -> Exit:
    """Show the SQL once for all schemas that stand at the same point."""
    output = invocation.output
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in attend(invocation, "Looking", lambda: fleet.status(schemas=schemas)).schemas:
        groups.setdefault(each.revisions, []).append(each.schema)
    scripts = [
        {"schemas": names, "revisions": revisions, "sql": fleet.migrations.sql(target, names[0])}
        for revisions, names in groups.items()
    ]

    def tell() -> None:
        for script in scripts:
            names = script["schemas"]
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            start = ", ".join(script["revisions"]) or "base"
            output.say(f"-- {names[0]}{more}, from {start}", "bold")
            output.say(str(script["sql"]).strip() or "-- nothing")

    output.show(scripts, tell)
    return Exit.OK
