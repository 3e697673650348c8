"""The manifest of Interactive Brokers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from brokers.manifest import Fact, ImpliedAccount, Manifest
from brokers.variables import Allowed, BrokerVariables, Host, Port, lower

_PAPER_ACCOUNT = re.compile(r"D[UF]\w+", re.IGNORECASE)


class IbkrLibrary(StrEnum):
    AUTO = "auto"
    IB_INSYNC = "ib_insync"
    IB_ASYNC = "ib_async"


class IbkrVariables(BrokerVariables):
    prefix: ClassVar[str] = "ibkr_"

    ibkr_host: Host = "127.0.0.1"
    ibkr_port: Port = 4002
    ibkr_client_id: Annotated[int, Field(ge=0, le=2**31 - 1), Allowed("a whole number, 0 or more")] = 1
    ibkr_library: Annotated[IbkrLibrary, BeforeValidator(lower), Allowed("auto, ib_insync or ib_async")] = (
        IbkrLibrary.AUTO
    )


def is_paper(config: Mapping[str, object]) -> bool | None:
    """Judged by the account number: a real account's gateway is on loopback too."""
    named = config.get("ibkr_account")
    if named is None:
        return None
    return isinstance(named, str) and _PAPER_ACCOUNT.fullmatch(named) is not None


def remedy(config: Mapping[str, object], error: Exception) -> str:
    where = f"{config.get('host')}:{config.get('port')}"
    return (
        f"Is TWS or IB Gateway running and logged in at {where}, with its API open to this machine (settings: enable ActiveX and "
        "socket clients, the port, trusted addresses)? The usual ports: IB Gateway 4001 live, 4002 paper; TWS 7496 live, 7497 paper"
    )


MANIFEST = Manifest(
    name="ibkr",
    title="Interactive Brokers",
    adapter="brokers.ibkr.adapter",
    extra="ibkr",
    variables=IbkrVariables,
    implied_account=ImpliedAccount(account_id="IBKR_Main", variables=("IBKR_HOST", "IBKR_PORT", "IBKR_CLIENT_ID")),
    is_paper=is_paper,
    paper_hint="an ibkr_account that begins with DU or DF",
    remedy=remedy,
    facts=frozenset(
        {
            Fact.LATE_COMMISSIONS,
            Fact.BUSTS,
            Fact.EXTERNAL_ORDERS,
            Fact.HINTS,
            Fact.REFUSES_REPEATED_IDS,
            Fact.IDS_OF_A_CONNECTION,
            Fact.EXACT_COMMISSIONS,
            Fact.PAYS_THE_PRICE,
            Fact.ANNULS,
        }
    ),
    simulator="simulators.stage_ibkr:SIMULATOR",
)
