"""Drives the processes in which Alembic runs what can't be replayed, several at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final

from onegov_orm.fleet._migration_failure import RevisionFailure, failure
from onegov_orm.fleet.runner import Skipped

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName
    from onegov_orm.session_manager import SessionManager

_MODULE: Final = "onegov_orm.fleet._migration_worker"

#: How much of what a dead process has said is worth repeating.
_LAST_BYTES: Final = 2000

_CLOSING_SECONDS: Final = 5

Message = dict[str, Any]


class ProcessWorker:
    """Has a process run the revisions; it is started when first needed, and after a crash."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None
        self._writing = threading.Lock()

    def work(self, schema: SchemaName) -> str:
        """Have one schema migrated."""
        if self._process is None:
            self._start()
        answer = self._ask({"schema": str(schema)})
        if answer["outcome"] == "skipped":
            raise Skipped(answer["detail"])
        return str(answer["detail"])

    def interrupt(self) -> None:
        """Have the process cancel what it does."""
        process = self._process
        if process is not None and process.stdin is not None:
            # It may end just now.
            with suppress(OSError, ValueError):
                self._write(process, {"interrupt": True})

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(_CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        if self._said is not None:
            self._said.close()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            # Ctrl-C is for the process that decides what becomes of the schemas under way.
            start_new_session=True,
        )
        self._ask(self._message)

    def _ask(self, message: Message) -> Message:
        process: Any = self._process
        try:
            self._write(process, message)
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise self._crash()
        answer: Message = json.loads(line)
        if answer["outcome"] == "failed":
            if "schema" not in message:
                self.close()
            raise failure(answer["kind"], answer["reason"], answer["sqlstate"])
        return answer

    def _write(self, process: Any, message: Message) -> None:
        with self._writing:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()

    def _crash(self) -> RevisionFailure:
        """Return the error for a process that ended in the middle of a schema."""
        process: Any = self._process
        code = process.wait()
        said: Any = self._said
        said.seek(0, 2)
        said.seek(max(0, said.tell() - _LAST_BYTES))
        lines = said.read().decode(errors="replace").strip().splitlines()
        self.close()
        ended = f"signal {-code}" if code < 0 else f"status {code}"
        more = f": {lines[-1]}" if lines else ""
        return RevisionFailure(f"the process that ran the revisions ended with {ended}{more}")


def first_message(
    manager: SessionManager, manager_path: str | None, **values: Any
) -> Message | None:
    """Return what a process has to know; None if it can't be told how to connect.

    That is so for a manager whose engine was configured with more than plain data, unless it can
    be imported.
    """
    provisioner = manager.provisioner
    options = {
        "engine_config": manager.engine_config,
        "extensions_schema": provisioner.extensions_schema,
        "shared_schema": provisioner.shared_schema,
        "reserved": sorted(manager.reserved),
        "pooler": "external" if manager._kind.is_external else None,
    }
    message = {
        "manager": manager_path,
        "database": manager.url.render_as_string(),
        "sys_path": sys.path,
        **values,
    }
    if manager_path is None:
        message |= {"dsn": manager.dsn, "options": options}
    try:
        json.dumps(message)
    except (TypeError, ValueError):
        return None
    return message
