"""What came of a run: a result for each schema, and all of them in a report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a step ended in a schema."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    #: It was not begun: the run was stopped before, or failed elsewhere.
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended in one schema, and after how many seconds and tries."""

    schema: str
    outcome: Outcome
    seconds: float = 0.0
    tries: int = 0
    detail: str = ""
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result, as JSON has it."""
        return {
            "schema": str(self.schema),
            "outcome": self.outcome.value,
            "seconds": round(self.seconds, 3),
            "tries": self.tries,
            "detail": self.detail,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """How a step ended in all schemas, sorted by name."""

    step: str
    results: tuple[Result, ...]
    seconds: float
    was_stopped: bool = False

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed, and nothing is left to be done."""
        return not self.of(Outcome.FAILED) and not self.of(Outcome.PENDING)

    def of(self, outcome: Outcome) -> list[Result]:
        """Return the results that ended so."""
        return [result for result in self.results if result.outcome is outcome]

    def as_dict(self) -> dict[str, Any]:
        """Return the report, as JSON has it."""
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "was_stopped": self.was_stopped,
            "counts": {outcome.value: len(self.of(outcome)) for outcome in Outcome},
            "results": [result.as_dict() for result in self.results],
        }
