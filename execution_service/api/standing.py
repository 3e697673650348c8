"""How the service stands at this moment: its parts, its accounts at their brokers, store and Pub/Sub, and what waits; from memory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from execution_service.runtime.connectivity import Connectivity
from execution_service.transport.inbox import Inbox

SILENT_SECONDS = 10.0
"""So long without an answer, and the store or Pub/Sub counts as away."""


class Supervises(Protocol):
    def states(self) -> Mapping[str, Mapping[str, str | int]]: ...


class TradedAccounts(Protocol):
    def states(self) -> Mapping[str, Mapping[str, str]]: ...


class AskedStore(Protocol):
    def silent_seconds(self) -> float: ...


class Delivers(Protocol):
    @property
    def waiting(self) -> int: ...

    @property
    def unsent_notifications(self) -> int: ...


class Component(Protocol):
    def component(self) -> Mapping[str, str | None]:
        """`status` (OK or DEGRADED) and `message`."""


class Standing:
    """Asks nobody outside, so that it can be told however bad things are."""

    def __init__(
        self,
        *,
        supervisor: Supervises,
        accounts: TradedAccounts,
        store: AskedStore,
        pubsub: Connectivity | None,
        delivery: Delivers,
        inboxes: Mapping[str, Inbox],
        is_live: bool,
        version: str,
        others: Mapping[str, Component] | None = None,
        around: Mapping[str, Connectivity] | None = None,
    ) -> None:
        """`pubsub`: None where nobody notes whether it answers. `others`: what else is asked, by its name for people: the outside safety
        service, say. `around`: what else is outside, by its name."""
        self._supervisor = supervisor
        self._accounts = accounts
        self._store = store
        self._pubsub = pubsub
        self._delivery = delivery
        self._inboxes = inboxes
        self.mode = "LIVE" if is_live else "PAPER"
        self.version = version
        self._others = dict(others or {})
        self._around = around or {}

    def part_states(self) -> Mapping[str, Mapping[str, str | int]]:
        return self._supervisor.states()

    def account_states(self) -> Mapping[str, Mapping[str, str]]:
        return self._accounts.states()

    def silent_seconds(self) -> Mapping[str, float]:
        pubsub = 0.0 if self._pubsub is None else self._pubsub.silent_seconds()
        return {"store": self._store.silent_seconds(), "pubsub": pubsub}

    def queues(self) -> Mapping[str, int]:
        waiting = {f"{name} received": inbox.qsize() for name, inbox in self._inboxes.items()}
        return waiting | {"deliveries": self._delivery.waiting, "notifications": self._delivery.unsent_notifications}

    def components(self) -> dict[str, dict[str, Any]]:
        """Each with its status (OK, DEGRADED or DOWN), and what the trouble is."""
        found: dict[str, dict[str, Any]] = {}
        silent = {name: each.silent_seconds() for name, each in self._around.items()}
        for name, seconds in {**self.silent_seconds(), **silent}.items():
            is_away = seconds >= SILENT_SECONDS
            found[name] = _component("DOWN" if is_away else "OK", f"no answer for {seconds:.0f} s" if is_away else "")
        for account_id, state in self.account_states().items():
            is_up = state["state"] == "CONNECTED"
            found[f"broker {account_id}"] = _component(
                "OK" if is_up else "DOWN", state["trouble"] or ("" if is_up else state["state"])
            )
        for name, component in self._others.items():
            found[name] = dict(component.component())
        failed = self.failed_parts()
        found["parts"] = _component("DEGRADED" if failed else "OK", "; ".join(f"{name}: {why}" for name, why in failed))
        return found

    def failed_parts(self) -> Sequence[tuple[str, str]]:
        """Those that do not run now, and why."""
        return [
            (name, str(state["last_failure"]))
            for name, state in self.part_states().items()
            if state["state"] != "RUNNING"
        ]

    def status(self) -> str:
        """OK; DEGRADED: something does not work, and the rest goes on; DOWN: orders can be neither stored nor worked."""
        states = {name: component["status"] for name, component in self.components().items()}
        if states["store"] == "DOWN":
            return "DOWN"
        return "OK" if set(states.values()) == {"OK"} else "DEGRADED"

    def is_ready(self) -> bool:
        """Whether an order that comes now would be stored."""
        return self.status() != "DOWN"


def _component(status: str, message: str) -> dict[str, Any]:
    return {"status": status, "message": message or None}
