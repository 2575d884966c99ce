"""What the transactions of a schema start with."""

from __future__ import annotations

import pytest

from onegov_orm._prelude import Access, Prelude, prelude_of
from onegov_orm.names import SchemaName

BERN = SchemaName("towns-bern")
LOCAL = 'SET LOCAL search_path TO "towns-bern", "pg_catalog", "extensions"'


def test_a_transaction_starts_with_the_path() -> None:
    assert Prelude(BERN).opening == (LOCAL,)


def test_settings_follow_the_path() -> None:
    prelude = Prelude(BERN, settings=(("app.user", "o'ada"),))
    assert prelude.opening == (LOCAL, """SET LOCAL "app.user" TO 'o''ada'""")


def test_a_reading_transaction_is_read_only_first_of_all() -> None:
    prelude = prelude_of(BERN, "extensions", Access.READ_ONLY)
    assert prelude.opening == ("SET TRANSACTION READ ONLY", LOCAL)


def test_a_long_report_is_serializable_before_anything_else() -> None:
    prelude = prelude_of(BERN, "extensions", Access.DEFERRABLE)
    assert prelude.opening[0].endswith("SERIALIZABLE READ ONLY DEFERRABLE")
    assert prelude.opening[1:] == prelude.renewal


@pytest.mark.parametrize("access", Access)
def test_a_renewal_keeps_it_read_only(access: Access) -> None:
    assert prelude_of(BERN, "extensions", access).renewal[0] == "SET TRANSACTION READ ONLY"


def test_each_way_to_read_has_a_prelude_of_its_own() -> None:
    preludes = {prelude_of(BERN, "extensions", access) for access in (None, *Access)}
    assert len(preludes) == 3
    assert prelude_of(BERN, "extensions") is prelude_of(BERN, "extensions")


def test_a_schema_that_must_exist_is_asked_for() -> None:
    (sql,) = Prelude(BERN).admission
    assert "'\"towns-bern\"'::pg_catalog.regnamespace" in sql
    assert Prelude(BERN, must_exist=False).admission == ()


def test_the_path_without_transactions_lasts() -> None:
    assert Prelude(BERN).lasting == 'SET search_path TO "towns-bern", "pg_catalog", "extensions"'
