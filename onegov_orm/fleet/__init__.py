"""Cares for all customers of a database: migrations, checks, copies, and the life of each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onegov_orm.fleet._fleet import Fleet
    from onegov_orm.fleet.asynchronous import AsyncFleet
    from onegov_orm.fleet.registry import Customer, Overview
    from onegov_orm.fleet.runner import Outcome, Report, Result, RunOptions, Skipped, Stopper
    from onegov_orm.marks import LIVE, Mark, State

__all__ = [
    "LIVE",
    "AsyncFleet",
    "Customer",
    "Fleet",
    "Mark",
    "Outcome",
    "Overview",
    "Report",
    "Result",
    "RunOptions",
    "Skipped",
    "State",
    "Stopper",
]

#: The modules of these names. The environment of the migrations, say, needs few of them.
_HOMES: Final = {
    "LIVE": "marks",
    "AsyncFleet": "fleet.asynchronous",
    "Customer": "fleet.registry",
    "Fleet": "fleet._fleet",
    "Mark": "marks",
    "Outcome": "fleet.runner",
    "Overview": "fleet.registry",
    "Report": "fleet.runner",
    "Result": "fleet.runner",
    "RunOptions": "fleet.runner",
    "Skipped": "fleet.runner",
    "State": "marks",
    "Stopper": "fleet.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"onegov_orm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
