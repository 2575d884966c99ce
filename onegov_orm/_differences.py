"""What the connections of an engine learn from each other about prepared statements."""

from __future__ import annotations


class Differences:
    """What the connections of an engine learned from each other's failures."""

    def __init__(self) -> None:
        #: Statements that turned out to differ between schemas.
        self.statements: set[str] = set()
        #: How often something changed that statements were prepared for.
        self.renewals = 0
