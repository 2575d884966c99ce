"""Commands about the files of the migrations: ``init``, ``revision``, ``history``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._completion import complete_schemas
from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._output import Column, shown_path
from onegov_orm.cli._panels import MIGRATIONS
from onegov_orm.cli._running import attend

_COLUMNS = (
    Column("revision", is_name=True),
    Column("follows", is_name=True),
    Column("", is_name=True),
    Column("message"),
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "init",
        MIGRATIONS,
        examples=("", "alembic --base app.models:Base"),
        exits=(Exit.OK, Exit.FAILED, Exit.EXISTS),
    )(init)
    command(
        app,
        "revision",
        MIGRATIONS,
        examples=("'add e-mail addresses'", "'fill in streets' --empty"),
        exits=(Exit.OK, Exit.FAILED),
    )(revision)
    command(app, "history", MIGRATIONS, examples=("", "--json"), exits=(Exit.OK, Exit.FAILED))(
        history
    )


def revision(
    invocation: Invocation,
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="What it is about.", show_default=False)
    ],
    empty: Annotated[
        bool, typer.Option("--empty", help="Leave the operations to be written by hand.")
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="SCHEMA",
            help="Compare with this one, not with a scratch schema.",
            autocompletion=complete_schemas,
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str, typer.Option("--head", metavar="REVISION", help="The revision that it follows.")
    ] = "head",
) -> None:
    """Write a new revision with what the models have and the migrations lack.

    To know what they lack, all revisions are run in a scratch schema, which is undone again.
    Read what was written before you run it: a rename looks like a drop and an addition.
    """
    migrations = invocation.fleet(needs_models=not empty).migrations
    files = attend(
        invocation,
        "Comparing",
        lambda: migrations.revision(message, schema=schema, autogenerate=not empty, head=head),
    )
    output = invocation.output

    def tell() -> None:
        for file in files:
            output.say(f"Wrote {shown_path(file)}")

    output.show({"files": [str(file) for file in files]}, tell)


def history(invocation: Invocation) -> None:
    """Show all revisions, the newest first."""
    scripts = invocation.fleet().migrations.history()
    output = invocation.output

    def tell() -> None:
        if not scripts:
            output.say("There are no revisions yet: onegov-orm revision MESSAGE writes the first.")
            return
        output.table(_COLUMNS, [_row(script) for script in scripts])

    output.show([_as_dict(script) for script in scripts], tell)


def _as_dict(script: Any) -> dict[str, Any]:
    return {
        "revision": script.revision,
        "follows": _follows(script),
        "branches": sorted(script.branch_labels),
        "is_head": bool(script.is_head),
        "message": script.doc,
        "file": str(script.path),
    }


def _row(script: Any) -> list[Any]:
    labels = [*(["head"] if script.is_head else []), *sorted(script.branch_labels)]
    return [
        script.revision,
        ", ".join(_follows(script)),
        ", ".join(labels),
        script.doc.rstrip("."),
    ]


def _follows(script: Any) -> list[str]:
    before = script.down_revision
    if before is None:
        return []
    return [before] if isinstance(before, str) else list(before)


def init(
    invocation: Invocation,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to.", show_default="migrations")
    ] = Path("migrations"),
) -> None:
    """Make a folder for the migrations of this project: an Alembic environment.

    What is written is Alembic as it is known, and `alembic` itself works with it. Nothing that
    exists is written over. The database is not asked for anything.
    """
    # Alembic is loaded by those who have migrations.
    from onegov_orm.fleet._migration_init import init_environment

    output = invocation.output
    files = init_environment(folder, base=_base_path(invocation))

    def tell() -> None:
        for file in files:
            output.say(f"Wrote {shown_path(file)}")
        output.note("What is next: onegov-orm revision MESSAGE", "dim")

    output.show({"files": [str(file) for file in files]}, tell)


def _base_path(invocation: Invocation) -> str:
    """Return where env.py finds the models: the configured base, or that of the manager."""
    settings = invocation.settings
    if settings["base"]:
        return str(settings["base"][0])
    if settings["manager"] is None:
        raise Problem(
            "which models? env.py has to import them.",
            hint='Set base = "app.models:Base", or use --base.',
        )
    base: Any = invocation.fleet().manager.bases[0]
    return f"{base.__module__}:{base.__qualname__}"
