"""The queries that write down what is made of tables, and what belongs to them."""

from __future__ import annotations

from typing import Final

from onegov_orm.fleet._sql_blueprint import (
    DEFAULT,
    FOREIGN_KEY,
    INDEX,
    INDEX_PARTITION,
    NAMESPACE,
    PARTITION,
    POLICY,
    REFRESH,
    SETTING,
    TRIGGER,
    TRIGGER_STATE,
    VIEW,
    class_of,
    described,
    option_list,
    relation,
    texts,
    unqualified,
)
