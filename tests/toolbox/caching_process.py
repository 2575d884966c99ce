"""The application in a process of its own: executes lines, answers with one each."""

from __future__ import annotations

import sys
import threading
import time

from onegov_orm import SessionManager
from onegov_orm.cache import redis_region
from tests.toolbox.caching import App, Base, User, add


class Server:
    """Knows a few words."""

    def __init__(self, dsn: str, redis_url: str, schema: str) -> None:
        self.app = App(SessionManager(dsn, Base), redis_region(redis_url))
        self.app.mgr.set_current_schema(schema)
        self.schema = schema
        self.found = ""

    def role(self, name: str) -> str:
        """Have another role."""
        self.app.role = name
        return "ok"

    def read(self) -> str:
        """Read what is cached by role."""
        with self.app.mgr.schema(self.schema):
            return str(self.app.names_for_role)

    def made(self) -> str:
        """Tell how many values were made."""
        return str(self.app.made)

    def add(self, name: str) -> str:
        """Change something, and commit."""
        add(self.app, name)
        return "ok"

    def start(self) -> str:
        """Read in the background, slowly."""
        make = self.app._made
        self.app._made = lambda statement: (time.sleep(0.2), make(statement))[1]  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self._keep)
        self.thread.start()
        return "ok"

    def join(self) -> str:
        """Tell what was read in the background."""
        self.thread.join()
        return self.found

    def _keep(self) -> None:
        self.found = self.read()

    def die(self, name: str) -> str:
        """Commit, and never come to announce it."""
        self.app.orm_cache._generations.renew = lambda *_: (  # type: ignore[method-assign]
            print("committed", flush=True),
            threading.Event().wait(),
        )
        with self.app.mgr.schema(self.schema) as session:
            session.add(User(name=name))
        return "never"


def main() -> None:
    """Execute lines until there are none."""
    server = Server(*sys.argv[1:])
    for line in sys.stdin:
        word, *arguments = line.split()
        print(getattr(server, word)(*arguments), flush=True)


if __name__ == "__main__":
    main()
