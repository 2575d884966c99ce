"""Scripts that are known to be harmless are not read again, with any driver."""

from __future__ import annotations

import pytest

from onegov_orm import _ddl, _statements
from onegov_orm.fleet._context import FleetContext
from tests.models import Base


@pytest.fixture
def read(monkeypatch):
    """Collect the texts that are read."""
    texts = []
    monkeypatch.setattr(_statements, "_cached", lambda text: texts.append(text) or NONE)
    return texts


NONE = _statements.Effects.NONE
SCRIPT = ["CREATE TABLE words (\"end\" text DEFAULT 'search_path')", "DROP TABLE words"]


@pytest.mark.parametrize("is_harmless", [True, False])
def test_a_harmless_script_is_not_read(new_manager, dsn, read, is_harmless):
    mgr = new_manager(dsn, Base)
    mgr.ensure_schema_exists("towns-bern")
    context = FleetContext(mgr)
    with context.connected("towns-bern") as connection, connection.begin():
        read.clear()
        _ddl.run_script(connection, SCRIPT, is_harmless=is_harmless)
        was_read = any("words" in text for text in read)
    assert was_read is not is_harmless
