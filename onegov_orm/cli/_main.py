"""Puts the commands together, and runs the one that is called."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any

import typer
import typer.main

from onegov_orm._version import library_version
from onegov_orm.cli import (
    customers,
    demo,
    files,
    health,
    migrations,
    revisions,
    shell,
    spares,
    states,
    trash,
    upgrades,
)
from onegov_orm.cli._command import options_of, set_parameters
from onegov_orm.cli._errors import Explanation, explain
from onegov_orm.cli._exits import Declined, Exit, Interrupted
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Common
from onegov_orm.cli._output import close_quietly, prepare_streams
from onegov_orm.cli._settings import mask

_PROGRAM = "onegov-orm"

_HELP = """\
Care for a fleet: one PostgreSQL schema per customer, from one to ten thousand.

Start with `onegov-orm demo`: it needs no configuration and no server.

\b
In a project, say which database and models there are, in pyproject.toml:
  \\[tool.onegov_orm]
  manager = "app.db:mgr"      # a SessionManager, or a function that returns one

\b
or dsn and base = "app.models:Base"; in \\[onegov_orm] of setup.cfg; or in the
environment, as ONEGOV_ORM_DSN and ONEGOV_ORM_BASE. Flags count first, then
the environment, then pyproject.toml, then setup.cfg. `onegov-orm doctor`
shows what is set, and where.
"""

_GROUPS = (
    demo,
    customers,
    trash,
    states,
    spares,
    files,
    revisions,
    migrations,
    upgrades,
    health,
    shell,
)


def make_app() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        name=_PROGRAM,
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
    )

    def begin(context: typer.Context, **values: Any) -> None:
        invocation = context.find_object(Invocation)
        if invocation is not None:
            invocation.take({field.name: values[field.name] for field in fields(Common)})

    set_parameters(begin, [*options_of(Version), *options_of(Common)])
    app.callback()(begin)
    for group in _GROUPS:
        group.register(app)
    return app


@cache
def program() -> Any:
    """Return the program as Typer runs it; it is put together once."""
    return typer.main.get_command(make_app())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    prepare_streams()
    invocation = Invocation()
    try:
        return _run(arguments, invocation)
    except BrokenPipeError:
        close_quietly()
        return Exit.FAILED
    except Declined:
        invocation.output.note("Nothing was done.")
        return Exit.FAILED
    except Interrupted as exc:
        return exc.exit_code
    except Exception as exc:
        return _fail(exc, invocation)
    finally:
        invocation.close()


def _run(arguments: Sequence[str] | None, invocation: Invocation) -> int:
    given = None if arguments is None else list(arguments)
    try:
        program()(args=given, prog_name=_PROGRAM, obj=invocation)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else Exit.OK
    finally:
        sys.stdout.flush()
    return Exit.OK


def _fail(error: Exception, invocation: Invocation) -> int:
    explanation = explain(error, invocation)
    if explanation is None or invocation.wants_traceback:
        traceback.print_exception(error)
    if explanation is None:
        explanation = Explanation(
            f"{type(error).__name__}: {mask(str(error))}", Exit.FAILED, kind=type(error).__name__
        )
    output = invocation.output
    output.note(f"{_PROGRAM}: {explanation.message}", "bold red")
    if explanation.hint:
        output.note(explanation.hint)
    if output.wants_json:
        output.json(explanation.as_dict())
    return explanation.exit_code


def _show_version(is_wanted: bool) -> None:
    if not is_wanted:
        return
    typer.echo(f"{_PROGRAM} {library_version()}")
    raise typer.Exit


@dataclass(frozen=True)
class Version:
    """What only the program itself understands."""

    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False
