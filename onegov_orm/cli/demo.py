"""The command that shows what there is, on a server of its own: ``demo``."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._demo_files import MODELS, PROJECT
from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._output import Output
from onegov_orm.cli._panels import BEGIN

_MODULE = "towns"

_ADD_RESIDENT = "session.add(Resident(name='Ada'))"
_BREAK = (
    "from sqlalchemy import text; "
    "session.execute(text('ALTER TABLE residents ALTER name DROP NOT NULL'))"
)

#: What is told, and the command that shows it. Without a command, the models change.
_STORY: tuple[tuple[str, str], ...] = (
    ("A project begins: a folder for its migrations, and the first revision.", "init"),
    ("", "revision residents"),
    (
        "Four customers come: each gets a schema of its own, in one transaction.",
        "create towns-aarau towns-basel towns-bern towns-zurich",
    ),
    ("One of them gets a resident. Nobody else sees her.",
     f'shell towns-bern --commit -c "{_ADD_RESIDENT}"'),
    ("", "list"),
    ("The models learn about e-mail addresses.", ""),
    ("Alembic compares them with a reference schema, and writes the revision.", "revision email"),
    ("One query tells who lacks it.", "status"),
    ("One customer goes first.", "migrate towns-bern"),
    ("All others follow, the canary before the rest; who has it is left alone.",
     "migrate --canary 1"),
    ("Somebody changes a table by hand ...",
     f'shell towns-basel --commit -c "{_BREAK}"'),
    ("... and the check names what differs, among any number of schemas.", "check"),
    ("A copy to try something out, rows included:", "clone towns-bern towns-trial"),
    ("A customer is dropped by mistake ...", "drop towns-bern"),
    ("", "trash"),
    ("... and comes back, with all data.", "undo towns-bern"),
    ("", "list"),
)  # fmt: skip

_NEXT = (
    "That was all on a private server, which is gone now. What comes next:\n"
    "  onegov-orm --help      all commands\n"
    "  onegov-orm init        a folder for migrations in your own project\n"
    "  onegov-orm doctor      whether your database is fit for a fleet"
)

#: How the commands of the story may end: the check finds what was done to the table.
_EXPECTED = {"check": Exit.FOUND}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app, "demo", BEGIN, examples=("", "--database postgresql://localhost/scratch"),
        exits=(Exit.OK, Exit.FAILED),
    )(demo)  # fmt: skip


def demo(
    invocation: Invocation,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="Use this empty database instead."),
    ] = None,
) -> Exit:
    """Show what a fleet is, by doing it: some customers, migrations, drift, clone, drop, undo.

    It needs no configuration: it starts a private PostgreSQL server (pip install
    'onegov_orm[embedded]', or the server of this machine), which is gone in the end. Every
    command is shown and really run.
    """
    output = Output(False)
    with _project(output, database):
        for told, arguments in _STORY:
            if told:
                output.say(f"\n{told}", "bold")
            if not arguments:
                _write_models("with an e-mail address")
                continue
            output.say(f"$ onegov-orm {arguments}", "cyan")
            words = shlex.split(arguments)
            ended = _call(words)
            if ended in (Exit.INTERRUPTED, Exit.TERMINATED):
                return Exit(ended)
            if ended != _EXPECTED.get(words[0], Exit.OK):
                output.note(f"This should have ended otherwise (exit code {ended}).", "bold red")
                return Exit.FAILED
    output.say(f"\n{_NEXT}")
    return Exit.OK


def _call(words: list[str]) -> int:
    sys.stdout.flush()
    # The program imports this module.
    from onegov_orm.cli._main import run

    return run(words)


@contextmanager
def _project(output: Output, database: str | None) -> Iterator[None]:
    """Work in a project of a temporary folder, with a server."""
    kept = Path.cwd(), {name: os.environ[name] for name in os.environ if _is_ours(name)}
    with (
        tempfile.TemporaryDirectory(prefix="onegov-orm-demo-") as folder,
        _server(database) as dsn,
    ):
        output.note(f"The project is in {folder}, the database is {dsn.partition('?')[0]}", "dim")
        os.chdir(folder)
        for name in kept[1]:
            del os.environ[name]
        try:
            Path("pyproject.toml").write_text(PROJECT.format(dsn=dsn), encoding="utf-8")
            _write_models("at first")
            yield
        finally:
            os.chdir(kept[0])
            os.environ.update(kept[1])
            sys.modules.pop(_MODULE, None)
            sys.path[:] = [each for each in sys.path if not each.startswith(folder)]


@contextmanager
def _server(database: str | None) -> Iterator[str]:
    if database is not None:
        yield database
        return
    # It is loaded by those who start a server.
    from onegov_orm.embedded import EmbeddedServer, EmbeddedUnavailable

    try:
        server = EmbeddedServer()
        server.start()
    except EmbeddedUnavailable as exc:
        raise Problem(str(exc), Exit.FAILED) from exc
    with server:
        yield server.create_database("demo")


def _is_ours(name: str) -> bool:
    return name.startswith("ONEGOV_ORM_")


def _write_models(version: str) -> None:
    Path(f"{_MODULE}.py").write_text(MODELS[version], encoding="utf-8")
    sys.modules.pop(_MODULE, None)
    importlib.invalidate_caches()
