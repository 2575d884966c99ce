"""The command that opens Python in a schema: ``shell``."""

from __future__ import annotations

import code
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import SchemaArgument
from onegov_orm.cli._panels import BEGIN

if TYPE_CHECKING:
    from onegov_orm.fleet import Fleet

_NAMES_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "shell",
        BEGIN,
        examples=(
            "towns-bern",
            "towns-bern -c 'print(session.query(Resident).count())'",
            "towns-bern --commit < repair.py",
        ),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND),
    )(shell)


def shell(
    invocation: Invocation,
    schema: SchemaArgument,
    script: Annotated[
        str | None, typer.Option("-c", metavar="CODE", help="Run this instead of asking for more.")
    ] = None,
    commit: Annotated[
        bool, typer.Option("--commit", help="Commit at the end, if there was no error.")
    ] = False,
) -> Exit:
    """Open Python in one schema, with a session, to look at it or to mend it.

    There are `session`, `mgr`, `fleet`, all models by name, `commit()` and `rollback()`. What
    is not committed is rolled back at the end. Without a terminal, stdin is run as a script.
    """
    fleet = invocation.fleet()
    fleet.customers(names=[schema])
    with _names(fleet, schema) as names:
        if script is None and not sys.stdin.isatty():
            script = sys.stdin.read()
        if script is None:
            _converse(schema, names)
        elif not _run(script, names):
            return Exit.FAILED
        if commit:
            names["commit"]()
    return Exit.OK


@contextmanager
def _names(fleet: Fleet, schema: str) -> Iterator[dict[str, Any]]:
    """Yield what is there to work with; what is not committed is rolled back in the end."""
    manager = fleet.manager
    manager.set_current_schema(schema, create=False)
    session = manager.session()
    # A session that joins transactions of the package of that name ends with them.
    transactions = manager.transaction_manager
    commit = session.commit if transactions is None else transactions.commit
    rollback = session.rollback if transactions is None else transactions.abort
    models = {
        mapper.class_.__name__: mapper.class_
        for base in manager.bases
        for mapper in base.registry.mappers
    }
    helpers = {"commit": commit, "rollback": rollback}
    try:
        yield {**models, "session": session, "mgr": manager, "fleet": fleet, **helpers}
    finally:
        rollback()


def _run(script: str, names: dict[str, Any]) -> bool:
    """Run a script, whose errors are its author's business: they are shown as Python does."""
    interpreter = _Interpreter({"__name__": "__console__", **names})
    try:
        compiled = compile(script, "<onegov-orm shell>", "exec")
    except (SyntaxError, ValueError):
        interpreter.showsyntaxerror("<onegov-orm shell>")
        return False
    interpreter.runcode(compiled)
    return not interpreter.has_failed


class _Interpreter(code.InteractiveInterpreter):
    """Remembers whether there was an error."""

    has_failed = False

    def showtraceback(self) -> None:
        """Show the error."""
        self.has_failed = True
        super().showtraceback()


def _converse(schema: str, names: dict[str, Any]) -> None:
    classes = sorted(name for name, value in names.items() if isinstance(value, type))
    shown = ", ".join(classes[:_NAMES_SHOWN]) + (" ..." if len(classes) > _NAMES_SHOWN else "")
    banner = (
        f"Schema {schema}: session, mgr, fleet; models: {shown or 'none'}\n"
        "commit() keeps what you change; without it all is rolled back at the end."
    )
    if find_spec("IPython") is not None:
        _converse_in_ipython(schema, names, banner)
        return
    # History and completion are there if Python was built with it.
    with suppress(ImportError):
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    sys.ps1, sys.ps2 = f"{schema}>>> ", f"{schema}... "
    code.interact(banner, local=names, exitmsg="")


def _converse_in_ipython(schema: str, names: dict[str, Any], banner: str) -> None:
    # It is used if it is installed; nothing asks for it.
    ipython = import_module("IPython")
    prompts = import_module("IPython.terminal.prompts")
    config = import_module("traitlets.config").Config()

    def in_prompt_tokens(_: Any) -> list[tuple[Any, str]]:
        return [(prompts.Token.Prompt, f"{schema}>>> ")]

    own_prompts = type("SchemaPrompts", (prompts.Prompts,), {"in_prompt_tokens": in_prompt_tokens})
    config.TerminalInteractiveShell.prompts_class = own_prompts
    config.TerminalInteractiveShell.banner1 = f"{banner}\n"
    ipython.start_ipython(argv=[], user_ns=names, config=config)
