"""The groups in which the help lists the commands."""

from __future__ import annotations

from typing import Final

BEGIN: Final = "Begin here"
CUSTOMERS: Final = "Customers"
TRASH: Final = "The trash"
COPIES: Final = "Copies"
MIGRATIONS: Final = "Migrations and upgrade tasks"
HEALTH: Final = "Looking and checking"
