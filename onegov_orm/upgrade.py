"""Upgrade tasks, as modules with tasks import them."""

from __future__ import annotations

from onegov_orm._upgrade_state import UpgradeState, upgrade_stamp
from onegov_orm._upgrade_tasks import UpgradeTask, upgrade_task
from onegov_orm.errors import UpgradeFailed
from onegov_orm.fleet.upgrades import UpgradeContext, Upgrades, UpgradeStatus

__all__ = [
    "UpgradeContext",
    "UpgradeFailed",
    "UpgradeState",
    "UpgradeStatus",
    "UpgradeTask",
    "Upgrades",
    "upgrade_stamp",
    "upgrade_task",
]
