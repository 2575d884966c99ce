"""The command about upgrade tasks: ``upgrade``."""

from __future__ import annotations

from typing import Annotated

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Running, Selection
from onegov_orm.cli._panels import MIGRATIONS
from onegov_orm.cli._running import chosen, run
