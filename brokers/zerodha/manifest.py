"""The manifest of Zerodha."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import SecretStr

from brokers.errors import AuthRequired
from brokers.manifest import Fact, ImpliedAccount, Manifest
from brokers.variables import SOCKET_ADDRESS, WEB_ADDRESS, BrokerVariables, RootedPath, SocketAddress, WebAddress

ROOT_URL = "https://api.kite.trade"
_TOKEN_KEYS = ("access_token", "access_token_file")


class ZerodhaVariables(BrokerVariables):
    prefix: ClassVar[str] = "kite_"

    kite_api_key: SecretStr | None = None
    kite_api_secret: SecretStr | None = None
    kite_access_token: SecretStr | None = None
    kite_access_token_file: RootedPath | None = None
    kite_root_url: Annotated[WebAddress | None, WEB_ADDRESS] = None
    kite_ticker_url: Annotated[SocketAddress | None, SOCKET_ADDRESS] = None

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """An account with a token or token file of its own takes neither from here."""
        keys = super().account_keys(own, data_dir)
        if any(key in own for key in _TOKEN_KEYS):
            return {key: value for key, value in keys.items() if key not in _TOKEN_KEYS}
        return keys


def remedy(config: Mapping[str, object], error: Exception) -> str:
    if isinstance(error, AuthRequired):
        return (
            "Each day's token comes from a person's login in the browser: see the chapter on Zerodha's access token in "
            "docs/operations.md; a running service notices a new token file by itself"
        )
    where = str(config.get("root_url") or ROOT_URL)
    return f"Is {where} reachable from this machine, and is its address allowed in the app's settings at Kite Connect?"


MANIFEST = Manifest(
    name="zerodha",
    title="Zerodha",
    adapter="brokers.zerodha.adapter",
    extra="zerodha",
    variables=ZerodhaVariables,
    implied_account=ImpliedAccount(account_id="Zerodha_Main", variables=("KITE_API_KEY",)),
    secret_keys=frozenset({"api_key", "api_secret", "access_token"}),
    command_keys=frozenset({"api_secret"}),
    remedy=remedy,
    quiet_loggers=("kiteconnect",),
    products=("MIS", "NRML", "CNC"),
    facts=frozenset({Fact.LATE_COMMISSIONS, Fact.EXTERNAL_ORDERS, Fact.HINTS, Fact.PAYS_THE_PRICE, Fact.ANNULS}),
    simulator="simulators.stage_zerodha:SIMULATOR",
)
