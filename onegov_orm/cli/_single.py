"""Does something to schemas one by one, where no run is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from onegov_orm.cli._exits import Exit, Interrupted
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._running import attend, show_report


def each(
    invocation: Invocation,
    doing: str,
    done: str,
    schemas: Sequence[str],
    function: Callable[[str], Any],
) -> Exit:
    """Call a function for each schema; what it returns is told as a detail.

    An error of a single schema is raised. Of several, the others are not kept from theirs.
    """
    # SQLAlchemy comes along, which the help does without.
    from onegov_orm.fleet.runner import Outcome, Report, Result, one_line

    output = invocation.output
    results = []
    begun = time.monotonic()
    for schema in schemas:
        started = time.monotonic()
        try:
            detail = attend(invocation, f"{doing} {schema}", partial(function, schema))
            outcome, told, error = Outcome.DONE, str(detail or ""), ""
        except Interrupted:
            raise
        except Exception as exc:
            if len(schemas) == 1:
                raise
            outcome, told, error = Outcome.FAILED, "", one_line(exc)
        seconds = time.monotonic() - started
        results.append(Result(schema, outcome, seconds, 1, told, error))
    report = Report(doing, tuple(results), time.monotonic() - begun)
    if len(results) == 1 and not output.wants_json:
        [result] = results
        told = f": {result.detail}" if result.detail else ""
        output.say(f"{done} {result.schema} in {result.seconds:.2f} s{told}")
    else:
        show_report(output, report)
    return Exit.OK if report.is_ok else Exit.FAILED
