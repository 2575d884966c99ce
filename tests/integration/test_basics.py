"""A first round through the manager, on all servers and drivers."""

from __future__ import annotations

import transaction

from tests.models import Base, Document


def test_each_schema_has_its_rows(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    for name in ("towns-bern", "towns-basel"):
        mgr.set_current_schema(name)
        mgr.session().add(Document(owner=name, tags={"a": "b"}))
        transaction.commit()
    for name in ("towns-bern", "towns-basel"):
        mgr.set_current_schema(name)
        documents = mgr.session().query(Document).all()
        assert [(d.owner, d.tags) for d in documents] == [(name, {"a": "b"})]
