"""Completes the names of schemas, if the database answers fast."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, Final

import typer

#: Who pressed Tab does not wait longer than this.
_PATIENCE_SECONDS: Final = 1.5


def complete_schemas(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the schemas of the fleet that begin so; none if anything is in the way."""
    found: list[str] = []
    flags = {**ctx.find_root().params, **{k: v for k, v in ctx.params.items() if v}}

    def ask() -> None:
        # Nobody wants to read an error in the middle of a line that is being typed.
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(sys.stderr):
            found.extend(_names(flags))

    asking = threading.Thread(target=ask, daemon=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        asking.start()
        asking.join(_PATIENCE_SECONDS)
    return [name for name in found if name.startswith(incomplete)]


def _names(flags: dict[str, Any]) -> list[str]:
    # All of this is needed only now, by who pressed Tab behind a command.
    from onegov_orm.cli._loading import load_fleet, load_manager
    from onegov_orm.cli._settings import Settings

    settings = Settings(flags, os.environ, Path.cwd())
    fleet = load_fleet(settings, load_manager(settings, needs_models=False))
    return [str(name) for name in fleet.select()]
