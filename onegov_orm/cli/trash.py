"""Commands about what was dropped: ``drop``, ``trash``, ``undo``, ``purge``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Filters, SchemasArgument, YesOption
from onegov_orm.cli._output import Column, count_text, moment_text, size_text, told_overviews
from onegov_orm.cli._panels import TRASH
from onegov_orm.cli._running import attend, chosen, run_with
from onegov_orm.cli._single import each

if TYPE_CHECKING:
    from onegov_orm.fleet import Fleet
    from onegov_orm.fleet.lifecycle import Trashed

_COLUMNS = (
    Column("schema", is_name=True),
    Column("dropped", is_name=True),
    Column("size", "right"),
    Column("in the trash as", is_name=True),
)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "drop",
        TRASH,
        examples=("towns-bern", "'demo-*' --yes", "towns-bern --purge"),
    )(drop)
    command(app, "trash", TRASH, examples=("", "--json"), exits=(Exit.OK,))(trash)
    command(
        app,
        "undo",
        TRASH,
        examples=("towns-bern", "towns-bern --to towns-bern-old"),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.EXISTS),
    )(undo)
    command(
        app,
        "purge",
        TRASH,
        examples=("towns-bern", "--older-than 30d --yes", "--all"),
    )(purge)


def drop(
    invocation: Invocation,
    schemas: SchemasArgument,
    is_final: Annotated[
        bool, typer.Option("--purge", help="Destroy it at once, without a way back.")
    ] = False,
    yes: YesOption = False,
) -> Exit:
    """Put customers into the trash: they are gone at once, and `undo` brings them back.

    In the trash a schema keeps all its data, until `purge`. --purge destroys it right away; it
    asks first and says what will be lost, and so does a pattern that means several schemas.
    """
    fleet = invocation.fleet()
    names = chosen(invocation, Filters(), schemas) or []
    if is_final:
        invocation.confirm(
            f"Destroy for good: {told_overviews(fleet.overview(names=names))}?", yes
        )
    elif names != list(dict.fromkeys(schemas)):
        invocation.confirm(
            f"Drop into the trash: {told_overviews(fleet.overview(names=names))}?", yes
        )

    def function(name: str) -> Any:
        place = fleet.drop(name, purge=is_final)
        return "" if is_final else f'in the trash as "{place}"'

    exit_code = each(invocation, "Dropping", "Dropped", names, function)
    if not is_final and exit_code is Exit.OK:
        for name in names:
            invocation.output.note(f"Bring it back with: onegov-orm undo {name}", "dim")
    return exit_code


def trash(invocation: Invocation) -> None:
    """Show what is in the trash, the newest first."""
    fleet = invocation.fleet()
    found = attend(invocation, "Looking", fleet.trash)
    output = invocation.output

    def tell() -> None:
        if not found:
            output.say("The trash is empty.")
            return
        output.table(
            _COLUMNS,
            [
                [
                    trashed.name,
                    moment_text(trashed.dropped),
                    size_text(trashed.size_bytes),
                    str(trashed.schema),
                ]
                for trashed in found
            ],
        )

    output.show([trashed.as_dict() for trashed in found], tell)


def undo(
    invocation: Invocation,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Its name, or the one in the trash.", show_default=False
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="NEW", show_default=False, help="Bring it back under this name."
        ),
    ] = None,
) -> None:
    """Bring a customer back out of the trash, with all data.

    Of several that were dropped under this name, it is the one that was dropped last. If
    its name is taken by now, --to gives another one.
    """
    fleet = invocation.fleet()
    schema = attend(invocation, f"Bringing back {name}", lambda: fleet.undo(name, to=to))
    output = invocation.output
    output.show({"schema": str(schema)}, lambda: output.say(f"{schema} is back"))


def purge(
    invocation: Invocation,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names, or those in the trash.", show_default=False),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            show_default=False,
            help="Dropped so long ago: 12h, 30d, 8w.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is in the trash.")] = False,
    yes: YesOption = False,
) -> Exit:
    """Destroy what is in the trash, for good.

    It asks first, and says what will be lost. Large schemas are dropped in batches that the
    server has locks for; an interrupted purge is ended by the next one.
    """
    if not (names or older_than or everything):
        raise Problem("which ones?", hint="Name them, or use --older-than 30d, or --all.")
    age = None if older_than is None else _age(older_than)
    fleet = invocation.fleet()
    doomed = _doomed(fleet, names, age)
    if doomed:
        size = size_text(sum(trashed.size_bytes for trashed in doomed))
        told = ", ".join(trashed.name for trashed in doomed[:10])
        more = f" and {len(doomed) - 10} more" if len(doomed) > 10 else ""
        count = count_text(len(doomed), "schema")
        invocation.confirm(f"Destroy for good: {told}{more} ({count}, {size})?", yes)
    names = [str(trashed.schema) for trashed in doomed]
    return run_with(invocation, "Purging", partial(fleet.purge, names), list_all=True)


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    if found is None:
        raise Problem(f'"{text}" is not an age', hint="An age looks like 12h, 30d or 8w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _doomed(fleet: Fleet, names: list[str] | None, age: timedelta | None) -> list[Trashed]:
    """Return what is meant of what is in the trash; raises `NotInTrash` for strangers."""
    # They are loaded already, with the fleet.
    from onegov_orm.errors import NotInTrash

    found = fleet.trash()
    known = {text for trashed in found for text in (str(trashed.schema), trashed.name)}
    for name in names or ():
        if name not in known:
            raise NotInTrash(name)
    if names:
        found = [trashed for trashed in found if {str(trashed.schema), trashed.name} & set(names)]
    if age is not None:
        moment = datetime.now(UTC) - age
        found = [
            trashed for trashed in found if trashed.dropped is None or trashed.dropped <= moment
        ]
    return found
