"""The manifest of Alpaca."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr, ValidationInfo, field_validator

from brokers.errors import AuthRequired
from brokers.manifest import Fact, ImpliedAccount, Manifest
from brokers.variables import (
    SOCKET_ADDRESS,
    WEB_ADDRESS,
    Allowed,
    BrokerVariables,
    SocketAddress,
    WebAddress,
    upper,
)

PAPER_URL = "https://paper-api.alpaca.markets"
LIVE_URL = "https://api.alpaca.markets"
DATA_URL = "https://data.alpaca.markets"
"""Of the market data, for paper and live accounts alike."""
_SAME_SETTING = {
    "apca_api_key_id": "alpaca_api_key",
    "apca_api_secret_key": "alpaca_secret_key",
    "apca_api_base_url": "alpaca_base_url",
}
"""The names that Alpaca's own programs know, and ours."""


class TradingMode(StrEnum):
    PAPER = "PAPER"
    LIVE = "LIVE"


class AlpacaVariables(BrokerVariables):
    prefix: ClassVar[str] = "alpaca_"

    trading_mode: Annotated[TradingMode, BeforeValidator(upper), Allowed("PAPER or LIVE")] = TradingMode.PAPER
    alpaca_api_key: SecretStr | None = None
    alpaca_secret_key: SecretStr | None = None
    alpaca_base_url: Annotated[WebAddress | None, WEB_ADDRESS] = None
    alpaca_stream_url: Annotated[SocketAddress | None, SOCKET_ADDRESS] = None
    alpaca_data_url: Annotated[WebAddress | None, WEB_ADDRESS] = None
    apca_api_key_id: SecretStr | None = None
    apca_api_secret_key: SecretStr | None = None
    apca_api_base_url: Annotated[WebAddress | None, WEB_ADDRESS] = None

    @field_validator("apca_api_key_id", "apca_api_secret_key", "apca_api_base_url")
    @classmethod
    def _says_the_same(cls, value: object, info: ValidationInfo) -> object:
        ours = _SAME_SETTING[str(info.field_name)]
        known = info.data.get(ours)
        if value is not None and known is not None and value != known:
            raise ValueError(f"the same as {ours.upper()}, of which it is another name; or unset")
        return value

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """An account with a base URL of its own takes no stream or data URL from here: these would belong to another host."""
        keys = super().account_keys(own, data_dir)
        for theirs, ours in _SAME_SETTING.items():
            value = keys.pop(theirs, None)
            if value is not None:
                keys.setdefault(ours.removeprefix(self.prefix), value)
        if "base_url" in own:
            keys.pop("stream_url", None)
            keys.pop("data_url", None)
        return keys


def base_url_of(config: Mapping[str, object]) -> str:
    """The account's address: its own, else that of its trading mode."""
    said = config.get("base_url")
    is_live = str(config.get("trading_mode", "")).upper() == TradingMode.LIVE
    return str(said).rstrip("/") if said else LIVE_URL if is_live else PAPER_URL


def is_paper(config: Mapping[str, object]) -> bool | None:
    """Judged by the host; an address on this machine is a simulator."""
    return host_is_paper(base_url_of(config))


def host_is_paper(base_url: str) -> bool | None:
    """None for a host that is not Alpaca's."""
    host = urlsplit(base_url).hostname or ""
    if _is_loopback(host) or host == urlsplit(PAPER_URL).hostname:
        return True
    return False if host == urlsplit(LIVE_URL).hostname else None


def is_live_unless_said(config: Mapping[str, object]) -> bool:
    """An account that does not say it is live if the trading mode is, and its address is not on this machine."""
    is_live = str(config.get("trading_mode", "")).upper() == TradingMode.LIVE
    return is_live and not _is_loopback(urlsplit(base_url_of(config)).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def remedy(config: Mapping[str, object], error: Exception) -> str:
    where = base_url_of(config)
    if isinstance(error, AuthRequired):
        return (
            f"The keys are not accepted at {where}: paper accounts and live accounts have keys of their own, and a paper "
            "account that was reset has new ones. Make them on the account's page at Alpaca, and restart"
        )
    return f"Is {where} reachable from this machine?"


MANIFEST = Manifest(
    name="alpaca",
    title="Alpaca",
    adapter="brokers.alpaca.adapter",
    extra="alpaca",
    variables=AlpacaVariables,
    implied_account=ImpliedAccount(account_id="Alpaca_Main", variables=("ALPACA_API_KEY", "APCA_API_KEY_ID")),
    secret_keys=frozenset({"api_key", "secret_key"}),
    is_paper=is_paper,
    is_live_unless_said=is_live_unless_said,
    paper_hint=f"the base URL {PAPER_URL}",
    remedy=remedy,
    quiet_loggers=("alpaca", "websockets"),
    facts=frozenset(
        {
            Fact.EXTERNAL_ORDERS,
            Fact.HINTS,
            Fact.TELLS_EXPIRY,
            Fact.REFUSES_REPEATED_IDS,
            Fact.SILENT_ENDINGS,
            Fact.PAYS_THE_PRICE,
            Fact.ANNULS,
        }
    ),
    simulator="simulators.stage_alpaca:SIMULATOR",
)
