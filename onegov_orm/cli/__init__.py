"""The command line: ``onegov-orm``, or ``python -m onegov_orm``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXTRA_IS_MISSING = (
    "onegov-orm: the command line needs Typer and Rich ({}): pip install 'onegov_orm[cli]'"
)
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # These two come with an extra: who lacks them is told so, without a traceback.
    try:
        import rich
        import typer
    except ImportError as exc:
        print(_EXTRA_IS_MISSING.format(exc), file=sys.stderr)  # noqa: T201
        return _USAGE
    del rich, typer
    # Only now, for it needs both of them.
    from onegov_orm.cli._main import run

    return run(arguments)
