"""The manifest of Binance USD-M futures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from brokers.binance.codes import OtherPositionMode
from brokers.errors import AuthRequired
from brokers.manifest import Fact, ImpliedAccount, Manifest
from brokers.variables import (
    SOCKET_ADDRESS,
    WEB_ADDRESS,
    Allowed,
    BrokerVariables,
    Flag,
    RootedPath,
    SocketAddress,
    WebAddress,
)

LIVE_HOST = "fapi.binance.com"
TEST_HOSTS = frozenset({"demo-fapi.binance.com", "testnet.binancefuture.com"})
LIVE_URL = f"https://{LIVE_HOST}"
TEST_URL = "https://demo-fapi.binance.com"
"""Binance calls its test environment for futures demo trading; keys are made there."""
STREAM_URLS = {
    LIVE_HOST: "wss://fstream.binance.com",
    "demo-fapi.binance.com": "wss://demo-fstream.binance.com",
    "testnet.binancefuture.com": "wss://fstream.binancefuture.com",
}


class BinanceVariables(BrokerVariables):
    prefix: ClassVar[str] = "binance_"

    binance_api_key: SecretStr | None = None
    binance_api_secret: SecretStr | None = None
    binance_private_key_file: RootedPath | None = None
    use_binance_testnet: Flag = True
    binance_base_url: Annotated[WebAddress | None, WEB_ADDRESS] = None
    binance_stream_url: Annotated[SocketAddress | None, SOCKET_ADDRESS] = None
    binance_rate_limit_rpm: Annotated[
        int, Field(ge=100, le=1_000_000), Allowed("a whole number from 100 to 1000000")
    ] = 1200

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """An account with an address of its own takes no address from here."""
        keys = super().account_keys(own, data_dir)
        keys["testnet"] = keys.pop("use_binance_testnet")
        if "api_secret" in own or "private_key_file" in own:
            keys = {key: value for key, value in keys.items() if key not in ("api_secret", "private_key_file")}
        return keys


def base_url(config: Mapping[str, object]) -> str:
    """Where an account's calls go: to its own address, else by `testnet`."""
    own = config.get("base_url")
    if own:
        return str(own).rstrip("/")
    return LIVE_URL if config.get("testnet") is False else TEST_URL


def is_paper(config: Mapping[str, object]) -> bool | None:
    """By the host: the key itself does not tell."""
    host = urlsplit(base_url(config)).hostname or ""
    return True if host in TEST_HOSTS else False if host == LIVE_HOST else None


def is_live_unless_said(config: Mapping[str, object]) -> bool:
    """By `testnet` and the address: a host that is not Binance's test environment or on this machine counts as live."""
    host = urlsplit(base_url(config)).hostname or ""
    return is_paper(config) is not True and host not in ("127.0.0.1", "localhost", "::1")


def remedy(config: Mapping[str, object], error: Exception) -> str:
    where = base_url(config)
    if isinstance(error, OtherPositionMode):
        return ""
    if isinstance(error, AuthRequired):
        kind = "demo trading" if is_paper(config) else "your live account"
        return (
            f"A key for {where} is made in {kind}, with the right to trade futures, and may be bound to addresses; "
            "USE_BINANCE_TESTNET (or `testnet` of the account) chooses the environment"
        )
    return f"Is {where} reachable from this machine, and not blocked for its country?"


MANIFEST = Manifest(
    name="binance",
    title="Binance USD-M futures",
    adapter="brokers.binance.adapter",
    extra="binance",
    variables=BinanceVariables,
    implied_account=ImpliedAccount(account_id="Binance_Main", variables=("BINANCE_API_KEY",)),
    secret_keys=frozenset({"api_key", "api_secret"}),
    is_paper=is_paper,
    is_live_unless_said=is_live_unless_said,
    paper_hint="a host of Binance's test environment (demo-fapi.binance.com, testnet.binancefuture.com)",
    remedy=remedy,
    quiet_loggers=("aiohttp.client",),
    products=("LONG", "SHORT"),
    facts=frozenset(
        {
            Fact.EXTERNAL_ORDERS,
            Fact.HINTS,
            Fact.TELLS_EXPIRY,
            Fact.EXACT_COMMISSIONS,
            Fact.REJECTS_AT_ONCE,
            Fact.SILENT_ENDINGS,
            Fact.REFUSALS_UNLISTED,
        }
    ),
    simulator="simulators.stage_binance:SIMULATOR",
)
