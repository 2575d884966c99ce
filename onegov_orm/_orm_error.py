"""The root of all errors, and how they are shown and travel."""

from __future__ import annotations

from typing import Any


class OrmError(Exception):
    """Something went wrong in onegov_orm."""

    def __init__(self, message: str | None = None) -> None:
        default = (type(self).__doc__ or type(self).__name__).partition("\n")[0]
        super().__init__(message or default)

    def __reduce__(self) -> Any:
        """Travel between processes as data; constructors take other arguments."""
        return _restore, (type(self), self.args), self.__dict__


def _restore(error_class: type[OrmError], args: tuple[Any, ...]) -> OrmError:
    return error_class.__new__(error_class, *args)


def shown(value: object) -> str:
    """Show any value, on one line of a bounded length."""
    try:
        shown = repr(value)
    except Exception:
        shown = f"<{type(value).__name__}>"
    return f"{shown[:97]}..." if len(shown) > 100 else shown
