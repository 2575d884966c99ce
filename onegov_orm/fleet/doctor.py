"""The doctor: tells whether server, rights, pooler and settings fit a fleet, by trying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from onegov_orm.errors import OrmError
from onegov_orm.fleet import (
    _doctor_fleet,
    _doctor_packages,
    _doctor_pooler,
    _doctor_rights,
    _doctor_server,
)
from onegov_orm.fleet._doctor_verdict import (
    Check,
    Examination,
    Finding,
    Level,
    Verdict,
    error,
    skipped,
)
from onegov_orm.fleet.runner import one_line

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext

__all__ = ["CHECKS", "Level", "Verdict", "diagnose"]

_CONNECTION: Final = "connection"

#: What is examined without a server.
_OFFLINE: Final = ("packages",)

#: Each examination by its name, in the order of the verdicts.
CHECKS: Final[dict[str, Check]] = {
    "packages": _doctor_packages.packages,
    _CONNECTION: _doctor_server.connection,
    "version": _doctor_server.version,
    "primary": _doctor_server.primary,
    "pooler": _doctor_pooler.pooler,
    "search path": _doctor_pooler.reporting,
    "rights": _doctor_rights.rights,
    "extensions": _doctor_rights.extensions,
    "timeouts": _doctor_server.timeouts,
    "connections": _doctor_server.connections,
    "locks": _doctor_server.locks,
    "catalogs": _doctor_server.catalogs,
    "clock": _doctor_server.clock,
    "replicas": _doctor_server.replicas,
    "public": _doctor_fleet.public,
    "unmarked": _doctor_fleet.unmarked,
    "states": _doctor_fleet.states,
    "leftovers": _doctor_fleet.leftovers,
    "indexes": _doctor_fleet.indexes,
    "migrations": _doctor_fleet.migrations,
}


def diagnose(context: FleetContext, *, fleet_size: int | None = None) -> list[Verdict]:
    """Examine everything; what is tried is undone again, and nothing is raised.

    ``fleet_size`` is how many customers there will be, if these are more than now. An
    examination that fails itself has an error as its verdict, and the others go on.
    """
    examination = Examination(context, fleet_size)
    verdicts: list[Verdict] = []
    is_connected = True
    for name, check in CHECKS.items():
        if is_connected or name in _OFFLINE:
            findings = list(_examine(check, examination))
        else:
            findings = [skipped("there is no connection")]
        if name == _CONNECTION:
            is_connected = all(finding.level is not Level.ERROR for finding in findings)
        verdicts += [
            Verdict(name, finding.level, finding.message, finding.advice) for finding in findings
        ]
    return verdicts


def _examine(check: Check, examination: Examination) -> Iterator[Finding]:
    """Yield what an examination finds, and its own failure."""
    try:
        yield from check(examination)
    except OrmError as exc:
        yield error(str(exc), "")
    except SQLAlchemyError as exc:
        yield error(one_line(exc), "Mend this first, and ask again.")
    except Exception as exc:
        yield error(f"the examination itself failed: {one_line(exc)}", "Please report this.")
