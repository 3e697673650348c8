"""What all others need to know of a broker, said by the broker's package itself; no client library is loaded for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from brokers.variables import BrokerVariables


class Fact(StrEnum):
    """What not every broker does. Tests that need it are skipped, and say so, where it is missing."""

    REJECTS_AT_ONCE = "a rejection is the answer to placing"
    FILLS_AT_ONCE = "the answer to placing carries the fills of an immediate execution"
    LATE_COMMISSIONS = "commissions are told per execution, possibly later"
    BUSTS = "busted and corrected executions are told"
    EXTERNAL_ORDERS = "other people's orders on the account are shown"
    HINTS = "changes that the venue makes are hinted at"
    SHARED_BOOK = "several processes may use the venue's book without a venue between them"
    TELLS_EXPIRY = "an order that expired is told apart from one that was cancelled"
    REFUSES_REPEATED_IDS = "a second order under a client id is refused for ever"
    IDS_OF_A_CONNECTION = "what was perhaps sent can leave again only on behalf of the connection that sent it"
    EXACT_COMMISSIONS = "commissions are the venue's own figures and no estimates"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpliedAccount:
    """The account that the environment alone makes, where there is no accounts file."""

    account_id: str
    variables: tuple[str, ...]
    """One of these has to be set."""


def _not_to_be_told_apart(config: Mapping[str, object]) -> bool | None:
    return None


def _no_remedy(config: Mapping[str, object], error: Exception) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One broker. Its package has it as `MANIFEST` in the module `manifest`, which imports nothing that is not always installed."""

    name: str
    """In lower case, as an account's `broker` names it."""
    title: str
    """For people."""
    adapter: str
    """The module with `create(config) -> Broker` and the `Configuration` that it reads, by its dotted name."""
    extra: str = ""
    """The extra of this distribution that brings the client library; empty: none is needed."""
    variables: type[BrokerVariables] = BrokerVariables
    implied_account: ImpliedAccount | None = None
    secret_keys: frozenset[str] = frozenset()
    """Keys of an account that never stand in the accounts file, beside those whose names say so."""
    command_keys: frozenset[str] = frozenset()
    """Keys of an account that no adapter reads, but a command of this broker's."""
    is_stand_in: bool = False
    """It serves every account, unknown ones too, where the process is told to use no real broker; none of its accounts is live."""
    is_paper: Callable[[Mapping[str, object]], bool | None] = _not_to_be_told_apart
    """Whether an account's settings name one for practice. False: they name a real one, and an address on this machine is no proof either;
    None: they say neither, and such an address is."""
    paper_hint: str = ""
    """What `is_paper` wants to see, for the sentence about an account that is said not to be live; empty: nothing that it could see."""
    remedy: Callable[[Mapping[str, object], Exception], str] = _no_remedy
    """What a person can do about an error of connecting, by the account's settings, where the error's own words do not say it; else empty."""
    quiet_loggers: tuple[str, ...] = ()
    """Loggers whose lines below WARNING may carry secrets or whole answers: they are never let through."""
    products: tuple[str, ...] = ()
    """Names under which it may hold one instrument apart."""
    facts: frozenset[Fact] = frozenset()
    simulator: str | None = None
    """`module:name` of the `simulators.simulator.Simulator` that pretends to be it on this machine, for the demo and for tests."""
