"""Commands that look whether all is well: ``check``, ``doctor``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._errors import explain
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Selection
from onegov_orm.cli._output import Column, Output, count_text
from onegov_orm.cli._panels import HEALTH
from onegov_orm.cli._progress import new_progress
from onegov_orm.cli._running import attend, chosen

if TYPE_CHECKING:
    from onegov_orm.fleet.drift import DriftReport

_DRIFT = (Column("schema", is_name=True), Column("differs in"))


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
    """Find the schemas that differ from the models or from the majority, and in what.

    It names table, column, type, default, index, constraint. Nothing is changed: what the
    models describe is made in a transaction that is rolled back.
    """
    fleet = invocation.fleet(needs_models=True)
    schemas = chosen(invocation, selection)
    progress = new_progress(invocation.output, "Checking")
    try:
        report = attend(
            invocation,
            "Checking",
            lambda: fleet.check(schemas=schemas, on_progress=partial(progress, None)),
            has_progress=True,
        )
    finally:
        progress.close()
    invocation.output.show(report.as_dict(), lambda: _tell_drift(invocation.output, report))
    return Exit.OK if report.is_ok else Exit.FOUND


def _tell_drift(output: Output, report: DriftReport) -> None:
    if report.majority:
        count = count_text(report.majority_size, "schema")
        output.say(f"The models and most schemas ({count}) do not agree:", "bold red")
        for difference in report.majority:
            output.say(f"  {difference.message}")
        output.say("If the models are newer: onegov-orm revision MESSAGE, then migrate.\n")
    if report.differences:
        output.table(_DRIFT, [[each.schema, each.message] for each in report.differences])
        output.say("")
    for note in report.notes:
        output.note(note, "dim")
    output.say(_drift_summary(report), "" if report.is_ok else "bold red")


def _drift_summary(report: DriftReport) -> str:
    looked = f"{count_text(report.schemas, 'schema')} in {report.seconds:.1f} s"
    if not report.was_compared_with_models:
        return f"{looked}: they could not be compared with the models."
    if report.is_ok:
        return f"{looked}: all are as the models have it."
    if not report.drifted:
        return f"{looked}."
    drifted = count_text(len(report.drifted), "schema differs", "schemas differ")
    return f"{looked}: {drifted} from the others."
