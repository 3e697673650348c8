"""`risk.toml` read again while the service runs: what has changed goes into the log, and what is wrong leaves the old limits in force."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from execution_service.app.risk_file import differences
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.risk.limits import RiskLimits
from execution_service.core.texts.service import risk_file_refused
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.trading.risk_rules import RiskRules

log = structlog.get_logger(__name__)


class ReadsLimits(Protocol):
    """Who knows where the file is."""

    def read_risk_limits(self) -> RiskLimits:
        """Raises ConfigurationError with all that is wrong."""


class RiskReload:
    """Puts the limits of the file in force each time that it is asked to."""

    def __init__(self, *, source: ReadsLimits, rules: RiskRules, alerts: RaisesAlerts, name: str) -> None:
        """`name`: the file's, for people."""
        self._source = source
        self._rules = rules
        self._alerts = alerts
        self._name = name

    async def run(self, asked: asyncio.Event) -> None:
        """Until cancelled; reads the file whenever `asked` is set."""
        while True:
            await asked.wait()
            asked.clear()
            await self.read_again()

    async def read_again(self) -> None:
        """Orders that are judged from now on are judged by the new limits; those of before stay in force where the file cannot be used."""
        try:
            limits = self._source.read_risk_limits()
        except ConfigurationError as exc:
            for problem in exc.problems:
                log.error(f"Limits of risk stay as they are: {problem}", action="risk_file_refused")
            await self._alerts.raise_alert(
                "risk_file_refused", risk_file_refused(name=self._name, problems=exc.problems)
            )
            return
        changed = differences(self._rules.written, limits)
        self._rules.limits = limits
        for difference in changed:
            log.warning(f"Limit of risk changed: {difference}", action="risk_limit_changed")
        if not changed:
            log.info("The file of risk limits says what it said", action="risk_file_read")
