"""Examines what the role may do, by doing it and undoing it again."""

from __future__ import annotations

from collections.abc import Iterator

from onegov_orm import _sql
from onegov_orm.errors import ExtensionMisplaced, ExtensionUnavailable, PermissionDenied
from onegov_orm.fleet import _sql_doctor
from onegov_orm.fleet._doctor_verdict import Examination, Finding, error, fine, skipped
from onegov_orm.marks import Mark
from onegov_orm.names import hidden_schema
from onegov_orm.provisioning import Provisioner, create_schema


def rights(examination: Examination) -> Iterator[Finding]:
    """Make a schema with a table, mark it, rename it, and drop it."""
    name, renamed = hidden_schema("scratch"), hidden_schema("scratch")
    steps = (
        _sql_doctor.create_table(name, "tried"),
        _sql_doctor.insert_row(name, "tried"),
        _sql.comment_on_schema(name, Mark.new().comment),
        _sql.rename_schema(name, renamed),
        _sql_doctor.drop_schema(renamed),
    )
    try:
        with examination.undone() as connection:
            create_schema(connection, name)
            for sql in steps:
                connection.exec_driver_sql(sql)
    except PermissionDenied as exc:
        yield error("the role may not create schemas", f"An administrator has to run: {exc.sql}")
    else:
        yield fine("the role can create, mark, rename and drop schemas")


def extensions(examination: Examination) -> Iterator[Finding]:
    """Make those that are missing, the way new schemas would."""
    manager = examination.manager
    names = sorted(manager.required_extensions)
    if not names:
        yield skipped("the manager requires no extensions")
        return
    is_fine = True
    for name in names:
        known = manager.provisioner
        # One that has not made sure of anything yet.
        provisioner = Provisioner(
            known.bases, {name}, manager.signals, known.extensions_schema, known.shared_schema
        )
        try:
            with examination.undone() as connection:
                provisioner._ensure_extensions(connection, {name})
        except ExtensionUnavailable as exc:
            is_fine = False
            yield error(
                str(exc).partition(":")[0],
                f"Install the Debian package {exc.package} on the server's machine.",
            )
        except (ExtensionMisplaced, PermissionDenied) as exc:
            is_fine = False
            yield error(
                f"{name}: {str(exc).partition('. An administrator')[0]}",
                f"An administrator has to run: {exc.sql}",
            )
    if is_fine:
        yield fine(f"{', '.join(names)} are there and can be used, or can be created")
