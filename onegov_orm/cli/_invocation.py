"""One call of the command line: its flags, configuration, output and fleet."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onegov_orm.cli._exits import Declined, Exit, Problem
from onegov_orm.cli._output import Output
from onegov_orm.cli._settings import Settings

if TYPE_CHECKING:
    from onegov_orm._manager import BaseSessionManager
    from onegov_orm.fleet import Fleet


class Invocation:
    """What a command works with; the flags before and behind its name are gathered here."""

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}
        #: The manager that was configured: that of the fleet, or an asynchronous one.
        self.manager: BaseSessionManager | None = None
        self._fleet: Fleet | None = None

    def take(self, flags: dict[str, Any]) -> None:
        """Note the flags that were given; those behind the command's name come last."""
        self.flags |= {name: value for name, value in flags.items() if value}

    @property
    def wants_traceback(self) -> bool:
        """Whether errors are shown with all their details."""
        return bool(self.flags.get("traceback") or os.environ.get("ONEGOV_ORM_TRACEBACK"))

    @cached_property
    def output(self) -> Output:
        """Where results and messages go."""
        return Output(bool(self.flags.get("json")))

    @cached_property
    def settings(self) -> Settings:
        """The configuration."""
        return Settings(self.flags, os.environ, Path.cwd())

    @property
    def open_fleet(self) -> Fleet | None:
        """The fleet if it has been asked for already."""
        return self._fleet

    def fleet(self, *, needs_models: bool = False) -> Fleet:
        """Return the fleet of the configured database, which is not connected yet."""
        if self._fleet is None:
            # The user's modules, and SQLAlchemy with them, are loaded by those who need them.
            from onegov_orm.cli._loading import load_fleet, load_manager

            self.manager = load_manager(self.settings, needs_models)
            self._fleet = load_fleet(self.settings, self.manager)
        return self._fleet

    def confirm(self, question: str, assume_yes: bool) -> None:
        """Ask before something is destroyed; raises `Declined`.

        Where nobody can be asked, ``--yes`` has to be said: nothing hangs, nothing is guessed.
        """
        if assume_yes:
            return
        if not sys.stdin.isatty():
            raise Problem(
                f"there is no terminal to ask on: {question}",
                Exit.USAGE,
                hint="Add --yes if that is what you want.",
            )
        # The helper of Typer asks on stderr, so that stdout stays clean.
        import typer

        try:
            is_wanted = typer.confirm(question, err=True)
        except typer.Abort:
            raise Declined from None
        if not is_wanted:
            raise Declined

    def close(self) -> None:
        """Close what was opened."""
        if self._fleet is not None:
            self._fleet.manager.dispose()
            self._fleet = None
