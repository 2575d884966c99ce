"""Commands that look whether all is well: ``check``, ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Selection
from onegov_orm.cli._output import Column, Output, count_text, shown_path, state_text
from onegov_orm.cli._panels import HEALTH
from onegov_orm.cli._progress import new_progress
from onegov_orm.cli._running import attend, chosen
from onegov_orm.cli._settings import Settings, mask

if TYPE_CHECKING:
    from onegov_orm.fleet.doctor import Verdict
    from onegov_orm.fleet.drift import DriftReport

_SETTINGS = (Column("option", is_name=True), Column("value"), Column("from", is_name=True))
_VERDICTS = (Column("examined", is_name=True), Column("verdict"), Column("found"))
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


def doctor(
    invocation: Invocation,
    fleet_size: Annotated[
        int | None,
        typer.Option(
            "--fleet-size",
            metavar="COUNT",
            min=1,
            help="How many customers are planned.",
            show_default=False,
        ),
    ] = None,
) -> Exit:
    """Find out whether server, rights, extensions, pooler and settings fit, by trying.

    It also shows the configuration, and where each value comes from. What is tried is undone
    again; nothing is left behind. It ends with 3 if there is an error among the verdicts.
    """
    output = invocation.output
    settings = invocation.settings
    if not output.wants_json:
        _tell_settings(output, settings)
    fleet = invocation.fleet()
    verdicts = attend(invocation, "Trying", lambda: fleet.doctor(fleet_size=fleet_size))
    data = {
        "configuration": settings.as_rows(),
        "files": [str(file.path) for file in settings.files],
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
    output.show(data, lambda: _tell_verdicts(output, verdicts))
    levels = {verdict.level.value for verdict in verdicts}
    return Exit.FOUND if "error" in levels else Exit.OK


def _tell_settings(output: Output, settings: Settings) -> None:
    rows = [
        [row["name"], _told(row["value"]), row["source"]]
        for row in settings.as_rows()
        if row["value"] is not None
    ]
    output.table(_SETTINGS, rows)
    files = ", ".join(shown_path(file.path) for file in settings.files)
    output.note(f"Configuration files: {files or 'none'}", "dim")
    output.say("")


def _told(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def _tell_verdicts(output: Output, verdicts: Sequence[Verdict]) -> None:
    rows = [[each.name, state_text(each.level.value), mask(each.message)] for each in verdicts]
    output.table(_VERDICTS, rows)
    for verdict in verdicts:
        if verdict.advice and verdict.level.value in ("warning", "error"):
            output.say(f"\n{verdict.name}: {verdict.advice}")


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
