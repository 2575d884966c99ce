"""The options that several commands have in common, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onegov_orm.cli._completion import complete_schemas

_COMMON = "In all commands"
_WHICH = "Which schemas"
_HOW = "How it runs"

SchemaArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCHEMA", help="The schema.", autocompletion=complete_schemas, show_default=False
    ),
]

NewNameArgument = Annotated[
    str, typer.Argument(metavar="NEW", help="The new name.", show_default=False)
]

SchemasArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEMA",
        help="Names, or patterns such as 'towns-*'.",
        autocompletion=complete_schemas,
        show_default=False,
    ),
]

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask. Needed without a terminal.")
]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command understands, before and behind its name."""

    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            metavar="URL",
            help="The database.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = None
    manager: Annotated[
        str | None,
        typer.Option(
            "--manager",
            metavar="MODULE:NAME",
            help="The manager.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = None
    base: Annotated[
        list[str] | None,
        typer.Option(
            "--base",
            metavar="MODULE:NAME",
            help="A declarative base; may be repeated.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = None
    migrations: Annotated[
        Path | None,
        typer.Option(
            "--migrations",
            metavar="FOLDER",
            help="The folder of the Alembic environment.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Read this pyproject.toml or setup.cfg.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON; messages go to stderr.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = False
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback",
            help="Show errors with all details.",
            rich_help_panel=_COMMON,
            show_default=False,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which part of the fleet is meant."""

    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Only schemas of this namespace: towns of towns-bern.",
            rich_help_panel=_WHICH,
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            "-x",
            metavar="SCHEMA",
            help="Leave these out; names or patterns, may be repeated.",
            rich_help_panel=_WHICH,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Selection(Filters):
    """Which schemas are meant: all of the fleet, unless said otherwise."""

    schemas: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCHEMA",
            help="Names, or patterns such as 'towns-*'. None: the whole fleet.",
            autocompletion=complete_schemas,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run goes through the schemas."""

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            min=1,
            help="Schemas at a time.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None
    canary: Annotated[
        int,
        typer.Option(
            "--canary",
            min=0,
            help="So many go first; if one fails, the others are left alone.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = 0
    wave: Annotated[
        int | None,
        typer.Option(
            "--wave",
            min=1,
            help="So many go together; no wave follows one with a failure.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast/--carry-on",
            help="Begin no other schema after a failure, or all the same.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = False
    lock_timeout: Annotated[
        float | None,
        typer.Option(
            "--lock-timeout",
            metavar="SECONDS",
            min=0.001,
            help="How long to wait for a lock of others.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None
    tries: Annotated[
        int | None,
        typer.Option(
            "--tries",
            min=1,
            help="How often a schema is tried if locks are in the way.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="List every schema, not only failures.",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = False
