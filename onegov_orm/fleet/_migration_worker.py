"""A process that runs revisions in one schema after the other: ``python -m`` this module.

It is told what to do in lines of JSON on its standard input, and answers on its standard output;
nothing secret is on its command line. It ends with its input: if the process that started it is
killed, what runs is cancelled on the server.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from importlib import import_module
from typing import IO, Any

from sqlalchemy.orm import declarative_base

from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet._migration_failure import described
from onegov_orm.fleet._migration_live import LiveWorker
from onegov_orm.fleet._migration_plans import Goal
from onegov_orm.fleet._migration_scripts import Direction, Scripts
from onegov_orm.fleet.runner import Skipped
from onegov_orm.names import found_schema
from onegov_orm.session_manager import SessionManager

Message = dict[str, Any]

#: How the process ends when the one that started it is gone.
_ORPHANED = 3


class Inbox:
    """Reads the messages in a thread of its own, so that an interruption is heard at once."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.worker: LiveWorker | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Message:
        """Wait for the next message."""
        return self._messages.get()

    def _read(self) -> None:
        for line in self._stream:
            message = json.loads(line)
            if "interrupt" in message:
                self._interrupt()
            else:
                self._messages.put(message)
        self._interrupt()
        os._exit(_ORPHANED)

    def _interrupt(self) -> None:
        if self.worker is not None:
            self.worker.interrupt()


def main() -> None:
    """Work until the input ends."""
    answers, messages = _own_streams()
    inbox = Inbox(messages)
    first = inbox.next()
    try:
        inbox.worker = _worker(first)
    except Exception as exc:
        _send(answers, _failure(exc))
        return
    _send(answers, {"outcome": "ready"})
    while True:
        _send(answers, _work(inbox.worker, inbox.next()["schema"]))


def _work(worker: LiveWorker, schema: str) -> Message:
    try:
        return {"outcome": "done", "detail": worker.work(found_schema(schema))}
    except Skipped as skipped:
        return {"outcome": "skipped", "detail": str(skipped)}
    except Exception as exc:
        return _failure(exc)


def _worker(message: Message) -> LiveWorker:
    sys.path[:] = message["sys_path"]
    context = FleetContext(_manager(message))
    goal = Goal(Direction(message["direction"]), _target(message["target"]), message["purges"])
    scripts = Scripts(message["folder"])
    # A mistake in env.py shows now.
    scripts.options  # noqa: B018
    return LiveWorker(context, scripts, goal, message["lock_timeout_seconds"])


def _manager(message: Message) -> SessionManager:
    path = message["manager"]
    if path is None:
        return SessionManager(message["dsn"], declarative_base(), **message["options"])
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name)
    manager = found if isinstance(found, SessionManager) else found()
    if not isinstance(manager, SessionManager):
        raise ConfigurationError(f"{path} is neither a SessionManager nor returns one")
    if manager.url.render_as_string() != message["database"]:
        raise ConfigurationError(
            f"{path} leads to {manager.url!r}, and the fleet is in {message['database']}"
        )
    return manager


def _target(target: str | list[str]) -> str | tuple[str, ...]:
    return target if isinstance(target, str) else tuple(target)


def _failure(error: BaseException) -> Message:
    kind, reason, sqlstate = described(error)
    return {"outcome": "failed", "kind": kind, "reason": reason, "sqlstate": sqlstate}


def _own_streams() -> tuple[IO[str], IO[str]]:
    """Take the standard streams away from what revisions print and read."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    messages = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return answers, messages


def _send(stream: IO[str], message: Message) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
