"""The command about schemas that are made ahead: ``spares``."""

from __future__ import annotations

from typing import Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._making import fill_spares
from onegov_orm.cli._output import count_text
from onegov_orm.cli._panels import CUSTOMERS
from onegov_orm.cli._running import attend


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "spares",
        CUSTOMERS,
        examples=("", "--fill 5"),
        exits=(Exit.OK, Exit.FAILED, Exit.DENIED),
    )(spares)


def spares(
    invocation: Invocation,
    fill: Annotated[
        int | None,
        typer.Option(
            "--fill", metavar="COUNT", show_default=False, min=0, help="Make so many be there."
        ),
    ] = None,
) -> None:
    """Make schemas ahead, so that a new customer waits for a rename only.

    Without --fill it tells how many there are. A spare that models or revisions have outdated
    is not used.
    """
    fleet = invocation.fleet(needs_models=fill is not None)
    made = 0
    if fill is not None:
        made = attend(invocation, "Making spares", lambda: fill_spares(invocation, fill))
    found = attend(invocation, "Looking", fleet.spares)
    output = invocation.output

    def tell() -> None:
        if fill is not None:
            output.say(f"Made {count_text(made, 'spare')}")
        output.say(f"{count_text(len(found), 'spare')} ready")

    output.show({"made": made, "spares": len(found)}, tell)
