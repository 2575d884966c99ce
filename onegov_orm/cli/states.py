"""Commands about the state of customers: ``suspend``, ``resume``, ``note``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Filters, SchemaArgument, SchemasArgument
from onegov_orm.cli._panels import CUSTOMERS
from onegov_orm.cli._running import chosen
from onegov_orm.cli._single import each


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "suspend",
        CUSTOMERS,
        examples=("towns-bern --note 'bill unpaid'", "'demo-*'"),
    )(suspend)
    command(app, "resume", CUSTOMERS, examples=("towns-bern", "'demo-*'"))(resume)
    command(
        app,
        "note",
        CUSTOMERS,
        examples=("towns-bern 'moves in May'", "towns-bern ''"),
    )(note)


def suspend(
    invocation: Invocation,
    schemas: SchemasArgument,
    note: Annotated[
        str | None, typer.Option("--note", show_default=False, help="Why, for those who look.")
    ] = None,
) -> Exit:
    """Refuse the sessions of customers for a while, with a clear error.

    Transactions that run already go on to their end. Migrations still run. `resume` undoes it.
    """
    fleet = invocation.fleet()

    suspend_with_note = partial(fleet.suspend, note=note)
    names = _names(invocation, schemas)
    return each(invocation, "Suspending", "Suspended", names, suspend_with_note)


def resume(invocation: Invocation, schemas: SchemasArgument) -> Exit:
    """Let suspended customers work again."""
    fleet = invocation.fleet()

    return each(invocation, "Resuming", "Resumed", _names(invocation, schemas), fleet.resume)


def note(
    invocation: Invocation,
    schema: SchemaArgument,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The note; '' for none.", show_default=False)
    ],
) -> Exit:
    """Write a note about a customer, which `list` shows. It takes the place of the last one."""
    fleet = invocation.fleet()

    annotate = partial(fleet.annotate, note=text)
    return each(invocation, "Noting", "Noted about", [schema], annotate)


def _names(invocation: Invocation, schemas: list[str]) -> list[str]:
    return chosen(invocation, Filters(), schemas) or []
