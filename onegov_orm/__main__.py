"""Runs the command line: ``python -m onegov_orm``."""

from __future__ import annotations

import sys

from onegov_orm.cli import main

if __name__ == "__main__":
    sys.exit(main())
