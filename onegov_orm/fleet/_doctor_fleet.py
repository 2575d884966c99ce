"""Examines the schemas: who is marked and who should be, leftovers, indexes, revisions."""

from __future__ import annotations

import os
from collections.abc import Iterator

from onegov_orm.errors import OrmError
from onegov_orm.fleet import _sql_doctor
from onegov_orm.fleet._doctor_verdict import (
    Examination,
    Finding,
    error,
    fine,
    skipped,
    some,
    warning,
)
from onegov_orm.marks import PREFIX, State
from onegov_orm.names import hidden_kind

#: What hidden schemas of each kind are marked as.
_STATES = {"trash": State.TRASHED, "spare": State.SPARE}


def public(examination: Examination) -> Iterator[Finding]:
    """Look whether the schema public is out of the way."""
    rows = examination.ask(_sql_doctor.PUBLIC, {"tables": examination.tables})
    if not rows:
        yield fine("there is no schema public")
        return
    is_writable, tables = rows[0]
    if is_writable:
        yield warning(
            "everybody may create things in the schema public",
            f"An administrator has to run: {_sql_doctor.revoke_create_on_public()}",
        )
    if tables:
        yield warning(
            f"tables of the models are in the schema public too: {some(tables)}",
            "Look whose rows these are, and drop them: other programs may take them for a "
            "customer's.",
        )
    if not is_writable and not tables:
        yield fine("the schema public is out of the way")


def unmarked(examination: Examination) -> Iterator[Finding]:
    """Look for schemas that hold the models' tables, and are no part of the fleet."""
    wanted = len(examination.tables)
    names = [
        schema.name
        for schema in examination.schemas
        if schema.mark is None
        and wanted
        and schema.tables == wanted
        and examination.manager.is_valid_schema(schema.name)
    ]
    if names:
        yield warning(
            f"{len(names)} schemas hold the models' tables and are not marked: {some(names)}",
            f"If these are customers, run: onegov-orm adopt {' '.join(names[:5])}",
        )
    else:
        yield fine(f"{len(examination.customers)} schemas are marked, and none seems forgotten")


def states(examination: Examination) -> Iterator[Finding]:
    """Look for marks that can't be read, or contradict the name."""
    odd = [f"{name} ({reason})" for name, reason in _odd(examination)]
    if odd:
        yield warning(
            f"schemas whose mark is odd: {some(odd)}",
            "Look at their comments; `onegov-orm adopt` marks a customer anew.",
        )
    else:
        yield fine("all marks can be read, and fit their schemas")


def _odd(examination: Examination) -> Iterator[tuple[str, str]]:
    for schema in examination.schemas:
        mark, kind = schema.mark, hidden_kind(schema.name)
        if mark is None:
            if schema.comment.startswith(PREFIX):
                yield schema.name, "can't be read"
            elif kind in _STATES:
                yield schema.name, "is missing"
        elif kind is None and mark.state in _STATES.values():
            yield schema.name, f"is that of a {mark.state.value} one"
        elif kind in _STATES and mark.state is not _STATES[kind]:
            yield schema.name, f"says {mark.state.value}"


def leftovers(examination: Examination) -> Iterator[Finding]:
    """Look for schemas that were made for a moment, by somebody who was killed."""
    names = examination.leftovers
    if names:
        statements = "; ".join(_sql_doctor.drop_schema(name) for name in names[:5])
        yield warning(
            f"{len(names)} scratch schemas are left over: {some(names)}",
            f"If nobody is making a revision right now, run: {statements}",
        )
    else:
        yield fine("nothing is left over")


def indexes(examination: Examination) -> Iterator[Finding]:
    """Look for indexes that were never finished."""
    found = examination.ask(_sql_doctor.INVALID_INDEXES, {"schemas": examination.customers})
    if found:
        shown = some([f"{schema}.{index}" for schema, index in found])
        statements = "; ".join(_sql_doctor.drop_index(*row) for row in found[:5])
        yield warning(
            f"{len(found)} indexes are not valid, and only cost time: {shown}",
            f"Migrate again, or run: {statements}",
        )
    else:
        yield fine("all indexes are valid")


def migrations(examination: Examination) -> Iterator[Finding]:
    """Read the Alembic environment, and compare it with the schemas' revisions."""
    folder = examination.manager.migrations
    if folder is None:
        yield skipped("the manager has no migrations")
        return
    try:
        # Alembic is an extra, and slow to load.
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        from onegov_orm.fleet._versions import read_standings
    except ModuleNotFoundError as exc:
        yield error(f"{exc.name} is not installed", "pip install 'onegov_orm[migrations]'")
        return
    try:
        directory = ScriptDirectory(os.fspath(folder))
        known = {script.revision for script in directory.walk_revisions()}
        heads = sorted(directory.get_heads())
    except (CommandError, OrmError) as exc:
        yield error(f"{os.fspath(folder)}: {exc}", "`onegov-orm init` makes an environment.")
        return
    standings = read_standings(examination.context)
    strange = {
        f"{schema} ({version})"
        for schema, standing in standings.items()
        for version in standing.versions - known
    }
    if strange:
        yield error(
            f"revisions that nobody knows here: {some(sorted(strange))}",
            "Get the migrations that these schemas were migrated with.",
        )
    else:
        yield fine(f"{len(known)} revisions, the newest: {', '.join(heads) or 'none'}")
