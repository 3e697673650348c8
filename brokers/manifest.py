"""What the rest of the system needs to know about a broker, provided by the broker's package itself. Needs no client
library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from brokers.variables import BrokerVariables


class Fact(StrEnum):
    """Behaviour that not every broker has. Tests that need it are skipped, with the reason, where it is missing."""

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
    SILENT_ENDINGS = "an order that the venue ends comes without the reason"
    REFUSALS_UNLISTED = "an order that was refused at once is in no list"
    PAYS_THE_PRICE = "a purchase is paid for in full, and does not merely tie up a margin"
    ANNULS = "an execution may be annulled or corrected after it was told"
    EXACT_COMMISSIONS = "commissions are the venue's own figures and no estimates"
    SHARED_VOLUME = (
        "all orders share the volume that is traded, so that into how many fills one is cut depends on the others"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpliedAccount:
    """The account that environment variables alone define, if there is no accounts file."""

    account_id: str
    variables: tuple[str, ...]
    """At least one of these must be set."""


def _unknown_if_paper(config: Mapping[str, object]) -> bool | None:
    return None


def _live_unless_said(config: Mapping[str, object]) -> bool:
    return True


def _no_remedy(config: Mapping[str, object], error: Exception) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One broker. Its package has it as `MANIFEST` in the module `manifest`, which imports only what is always
    installed."""

    name: str
    """In lower case, as an account's `broker` names it."""
    title: str
    """For people."""
    adapter: str
    """The dotted name of the module with `create(config) -> Broker` and the `Configuration` that it reads."""
    extra: str = ""
    """The extra of this distribution that installs the client library; empty: none is needed."""
    variables: type[BrokerVariables] = BrokerVariables
    implied_account: ImpliedAccount | None = None
    secret_keys: frozenset[str] = frozenset()
    """Account keys that must not be in the accounts file, besides those whose names say so."""
    path_keys: frozenset[str] = frozenset()
    """Account keys that are paths, besides `path` and those that end in `_file`: relative ones start from the root."""
    command_keys: frozenset[str] = frozenset()
    """Account keys that no adapter reads, but a command of this broker does."""
    is_stand_in: bool = False
    """It serves every account, including unknown ones, when the process is told to use no real broker."""
    is_simulated: bool = False
    """No order that it takes leaves this machine, whatever its settings say: none of its accounts is live, and an account
    in mode TRAINING may be served by it."""
    is_for_training_alone: bool = False
    """Its market is one of the past: an account at it is in mode TRAINING, and no order of it is timed by the wall clock."""
    is_paper: Callable[[Mapping[str, object]], bool | None] = _unknown_if_paper
    """Whether an account's settings name a paper account. False: they name a real one, even if its address is on
    this machine. None: they do not tell; then an address on this machine counts as paper."""
    is_live_unless_said: Callable[[Mapping[str, object]], bool] = _live_unless_said
    """Whether an account whose table does not say `live` is one for real money."""
    paper_hint: str = ""
    """What `is_paper` looks for, for the error message about an account with `live = false`; empty: nothing."""
    remedy: Callable[[Mapping[str, object], Exception], str] = _no_remedy
    """What a person can do about a connection error, given the account's settings, if the error does not say it
    itself; else empty."""
    quiet_loggers: tuple[str, ...] = ()
    """Loggers whose lines below WARNING may contain secrets or whole answers: these lines are dropped."""
    products: tuple[str, ...] = ()
    """The products by which it may keep positions in one instrument apart; the sides, where an account may hold both of them at once."""
    facts: frozenset[Fact] = frozenset()
    simulator: str | None = None
    """`module:name` of the `simulators.simulator.Simulator` for this broker, used by the demo and tests."""
