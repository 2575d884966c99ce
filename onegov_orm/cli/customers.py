"""Commands about customers: ``list``, ``create``, ``rename``, ``clone``, ``adopt``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._making import create as make
from onegov_orm.cli._options import NewNameArgument, SchemaArgument, Selection
from onegov_orm.cli._output import Column, count_text, moment_text, size_text, state_text
from onegov_orm.cli._panels import COPIES, CUSTOMERS
from onegov_orm.cli._running import attend, chosen
from onegov_orm.cli._single import each

if TYPE_CHECKING:
    from onegov_orm.fleet.registry import Overview

_COLUMNS = (
    Column("schema", is_name=True),
    Column("state"),
    Column("size", "right"),
    Column("tables", "right"),
    Column("rows", "right"),
    Column("revision", is_name=True),
    Column("created", is_name=True),
    Column("migrated", is_name=True),
    Column("note"),
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "list",
        CUSTOMERS,
        examples=("", "--namespace towns", "'towns-*' --json", "--names | head"),
        exits=(Exit.OK, Exit.NOT_FOUND),
    )(list_customers)
    command(
        app,
        "create",
        CUSTOMERS,
        examples=("towns-bern", "towns-bern towns-zurich"),
        exits=(Exit.OK, Exit.FAILED, Exit.EXISTS, Exit.DENIED),
    )(create)
    command(
        app,
        "rename",
        CUSTOMERS,
        examples=("towns-bern towns-berne",),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.EXISTS),
    )(rename)
    command(app, "adopt", CUSTOMERS, examples=("towns-bern", "towns-bern towns-zurich"))(adopt)
    command(
        app,
        "clone",
        COPIES,
        examples=("towns-bern towns-test", "towns-bern towns-empty --structure"),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.EXISTS),
    )(clone)


def list_customers(
    invocation: Invocation,
    selection: Selection,
    names: Annotated[
        bool, typer.Option("--names", help="Print nothing but the names, one per line.")
    ] = False,
) -> None:
    """Show the customers, with what there is to know about them.

    The fleet is what this library made or adopted; other schemas are not shown. The rows are
    the server's estimate, counted exactly by nobody. Nothing is changed.
    """
    fleet = invocation.fleet()
    schemas = chosen(invocation, selection)
    if names:
        _list_names(invocation, schemas)
        return
    overviews = attend(invocation, "Looking", lambda: fleet.overview(names=schemas))
    output = invocation.output

    def tell() -> None:
        if not overviews:
            output.say("The fleet is empty: onegov-orm create NAME makes its first schema.")
            return
        output.table(_COLUMNS, [_row(overview) for overview in overviews])
        size = size_text(sum(overview.size_bytes for overview in overviews))
        output.note(f"{count_text(len(overviews), 'schema')}, {size}", "dim")

    output.show([overview.as_dict() for overview in overviews], tell)


def _list_names(invocation: Invocation, schemas: list[str] | None) -> None:
    if schemas is None:
        schemas = [str(name) for name in invocation.fleet().select()]
    output = invocation.output

    def tell() -> None:
        for schema in schemas:
            output.say(schema)

    output.show(schemas, tell)


def create(
    invocation: Invocation,
    schemas: Annotated[
        list[str], typer.Argument(metavar="SCHEMA", help="Names.", show_default=False)
    ],
) -> Exit:
    """Create schemas for new customers, with all that the models ask for.

    Schema, extensions, tables and seeds are made in one transaction: all of it, or nothing. A
    spare schema is used if there is one, which takes milliseconds.
    """
    invocation.fleet(needs_models=True)
    return each(invocation, "Creating", "Created", schemas, partial(make, invocation))


def rename(invocation: Invocation, schema: SchemaArgument, new: NewNameArgument) -> None:
    """Rename a schema, in an instant: nothing is copied.

    Sessions that come with the old name are refused from then on. Data stay as they are.
    """
    fleet = invocation.fleet()
    attend(invocation, f"Renaming {schema}", lambda: fleet.rename(schema, new))
    output = invocation.output
    output.show({"schema": schema, "new": new}, lambda: output.say(f"Renamed {schema} to {new}"))


def clone(
    invocation: Invocation,
    schema: SchemaArgument,
    new: NewNameArgument,
    structure: Annotated[
        bool, typer.Option("--structure", help="Copy tables and all the rest, but no rows.")
    ] = False,
) -> None:
    """Copy a schema under a new name: to try something out, or to begin a new customer.

    Everything in it is copied, in one transaction; the original can be used in the meantime.
    """
    fleet = invocation.fleet()
    attend(
        invocation,
        f"Cloning {schema}",
        lambda: fleet.clone(schema, new, data=not structure),
    )
    output = invocation.output
    told = f"Cloned {schema} to {new}, {'without' if structure else 'with'} its rows"
    output.show({"schema": schema, "new": new, "data": not structure}, lambda: output.say(told))


def adopt(
    invocation: Invocation,
    schemas: Annotated[
        list[str], typer.Argument(metavar="SCHEMA", help="Names.", show_default=False)
    ],
) -> Exit:
    """Take schemas into the fleet that other programs made.

    Only a mark is set, in the comment of the schema: from then on it is listed, migrated and
    checked as all others are. Its tables and rows are left alone.
    """
    fleet = invocation.fleet()
    return each(invocation, "Adopting", "Adopted", schemas, fleet.adopt)


def _row(overview: Overview) -> list[Any]:
    return [
        str(overview.schema),
        state_text(overview.state.value),
        size_text(overview.size_bytes),
        f"{overview.tables:,}",
        f"{overview.rows_estimate:,}",
        ", ".join(overview.revisions) or "-",
        moment_text(overview.created),
        moment_text(overview.migrated),
        overview.note,
    ]
