"""The words of a life: what may happen in it, as plain data that can be drawn from a seed, printed, replayed and shortened, and how each is done.

A new kind of step is one function with `@step`, which does it, and a few lines in `_drawn_step`, which draw its arguments. A new port is called
through `Replica.through`, and named in `PORTS`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from brokers.base import OrderRef
from brokers.errors import BrokerError
from brokers.paper.model import Action as BookAction
from brokers.paper.model import Fault, Operation, PaperOrder
from execution_service.core.orders.request import Identity, Purpose
from tests.fakes.mongo import BEYOND_TIME, MISSING
from tests.simulation.faults import INSIDE, Action, Armed

if TYPE_CHECKING:
    from tests.simulation.life import Life

LIVES_SECONDS = 60.0
"""Everything begins within this time."""
SYMBOLS = ("AAPL", "MSFT")


@dataclass(frozen=True)
class Step:
    """Something that happens at a moment, in seconds from the beginning."""

    at: float
    do: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """A whole life: what it is drawn from, what the world is like, and what happens."""

    seed: int
    options: Mapping[str, Any]
    steps: tuple[Step, ...]

    def to_json(self) -> str:
        """One step a line."""
        head = json.dumps({"seed": self.seed, "options": dict(self.options)})[:-1]
        lines = ",\n  ".join(json.dumps([s.at, s.do, dict(s.args)]) for s in self.steps)
        return f'{head}, "steps": [\n  {lines}]}}'

    @classmethod
    def from_json(cls, text: str) -> History:
        body = json.loads(text)
        steps = tuple(Step(at, do, args) for at, do, args in body["steps"])
        return cls(body["seed"], body["options"], steps)


# --- how each is done -----------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[..., None]] = {}


def step(do: Callable[..., None]) -> Callable[..., None]:
    STEPS[do.__name__] = do
    return do


@step
def order(life: Life, *, signal: str, age: float = 0.0, **fields: Any) -> None:
    """An order is published; `fields` are those of the message."""
    usual = {
        "signal_id": signal,
        "strategy_name": "momentum",
        "symbol": "AAPL",
        "side": "BUY",
        "quantity": 100,
        "order_type": "MARKET",
        "price": 10,
    }
    life.publish_order(usual | fields, age)


@step
def again(life: Life, *, signal: str, **changes: Any) -> None:
    """What was published under this signal comes again, as it was or with changes."""
    for key in list(life.outside.sent):
        if life.outside.sent[key]["signal_id"] == signal:
            life.publish_order(life.outside.sent[key] | changes, 0.0)


@step
def garbage(life: Life, *, text: str, topic: str) -> None:
    """A message that means nothing."""
    (life.outside.orders if topic == "orders" else life.outside.commands).publish(
        text.encode(), life.outside.clock.now()
    )


@step
def cancel(life: Life, *, signal: str, by: str, times: int = 1, leg: int | None = None) -> None:
    """A command to cancel, by the signal, of which perhaps one leg, or by the id of the order, perhaps repeated."""
    named: dict[str, Any] = {"signal_id": signal} if leg is None else {"signal_id": signal, "leg_index": leg}
    if by == "order_id":
        placed = life.placed_as(signal)
        broker_id = (
            placed[0].broker_order_id
            if placed
            else Identity(signal_id=signal, leg_index=0, purpose=Purpose.ENTRY).order_id
        )
        named = {"order_id": broker_id}
    body = {"command": "CANCEL", "reason": "changed my mind", "timestamp": "2025-03-03T15:00:00"} | named
    for _ in range(times):
        life.outside.commands.publish(json.dumps(body).encode(), life.outside.clock.now())


@step
def engage(life: Life, *, scope: str, level: str, cancel_entries: bool = False) -> None:
    """A kill switch is engaged, by a command."""
    body = {"command": "KILL", "scope": scope, "level": level, "by": "ann", "reason": "runaway"}
    life.outside.commands.publish(
        json.dumps(body | {"cancel_entries": cancel_entries}).encode(), life.outside.clock.now()
    )


@step
def arm(life: Life, *, scope: str, after: float) -> None:
    """A person makes the first step of arming, and so many seconds later the second, too early or not."""
    life.arm(scope, after)


@step
def fill(life: Life, *, signal: str, part: float, price: str | None = None, late_commission: bool = False) -> None:
    """The venue executes part of what is open."""
    for placed in life.placed_as(signal):
        quantity = max(Decimal(1), Decimal(int(placed.open_quantity * Decimal(str(part)))))
        if placed.open_quantity:
            life.venue(
                placed,
                lambda book, ref, q=quantity: book.fill_order(
                    ref, q, None if price is None else Decimal(price), late_commission=late_commission
                ),
            )


@step
def hit(life: Life, *, signal: str, pick: int, part: float) -> None:
    """The venue executes part of a protective order of this entry; `pick`: which of those that work."""
    working = life.protective_of(signal)
    if working:
        placed = working[pick % len(working)]
        quantity = max(Decimal(1), Decimal(int(placed.open_quantity * Decimal(str(part)))))
        life.venue(placed, lambda book, ref: book.fill_order(ref, quantity))


@step
def removed(life: Life, *, signal: str, pick: int) -> None:
    """A person at the broker cancels a protective order of this entry."""
    working = life.protective_of(signal)
    if working:
        life.venue(working[pick % len(working)], lambda book, ref: book.cancel_unasked(ref, "by hand"))


@step
def bust(life: Life, *, signal: str) -> None:
    """The last execution that stands is annulled."""
    for placed, fill_id in life.last_fills(signal):
        life.venue(placed, lambda book, ref, f=fill_id: book.bust_fill(f))


@step
def correct(life: Life, *, signal: str, price: str) -> None:
    """The last execution that stands is replaced by one at another price."""
    for placed, fill_id in life.last_fills(signal):
        life.venue(placed, lambda book, ref, f=fill_id: book.correct_fill(f, price=Decimal(price)))


@step
def commission(life: Life, *, signal: str, amount: str) -> None:
    """The last execution's commission is told, or changed; a rebate is below 0."""
    for placed, fill_id in life.last_fills(signal):
        life.venue(placed, lambda book, ref, f=fill_id: book.set_commission(f, Decimal(amount)))


@step
def venue_cancels(life: Life, *, signal: str) -> None:
    """Unasked."""
    for placed in life.placed_as(signal):
        life.venue(placed, lambda book, ref: book.cancel_unasked(ref, "by the venue"))


@step
def venue_rejects(life: Life, *, signal: str) -> None:
    """Late."""
    for placed in life.placed_as(signal):
        life.venue(placed, lambda book, ref: book.reject_order(ref, "by the venue"))


@step
def at_the_book(life: Life, *, account: str, operation: str, action: str, **rest: Any) -> None:
    """A fault of the paper exchange itself."""
    if rest.get("quantity") is not None:
        rest["quantity"] = Decimal(rest["quantity"])
    fault = Fault(operation=Operation(operation), action=BookAction(action), account_id=account, **rest)
    life.replicas[0].book(account).add_fault(fault)


@step
def fault(life: Life, *, pattern: str, action: str, **rest: Any) -> None:
    """From now on the next calls of a port meet this."""
    life.outside.plan.armed.append(Armed(pattern, Action(action), **rest))


@step
def away(life: Life, *, port: str, replica: int, seconds: float) -> None:
    """A port is away for one replica alone (or for all: -1)."""
    for each in life.replicas:
        if replica in (-1, each.number):
            life.outside.plan.take_away(each.number, port, life.outside.loop.time() + seconds)


@step
def kill(life: Life, *, replica: int, down: float) -> None:
    """As by kill -9; it begins anew after `down` seconds."""
    if replica < len(life.replicas):
        life.down_seconds[replica] = down
        life.replicas[replica].shoot()


@step
def stop(life: Life, *, replica: int, down: float) -> None:
    """As by SIGTERM; it begins anew after `down` seconds."""
    if replica < len(life.replicas):
        life.begin_stop(replica, down)


@step
def unconfigure(life: Life, *, account: str, down: float, store_away_after: float | None = None) -> None:
    """The account is taken out of the settings, and all replicas are killed and begin with that; perhaps the store is away for a second so
    long after."""
    life.unconfigured.add(account)
    for number, each in enumerate(life.replicas):
        each.configure(account, is_there=False)
        life.down_seconds[number] = down
        each.shoot()
    if store_away_after is not None:
        for each in life.replicas:
            life.outside.loop.call_later(
                down + store_away_after,
                lambda n=each.number: (
                    life.outside.plan.is_over or life.outside.plan.take_away(n, "store", life.outside.loop.time() + 1.0)
                ),
            )


ODD_VALUES: Mapping[str, Any] = {
    "gone": MISSING,
    "null": None,
    "text": "odd",
    "number": -1,
    "list": [],
    "object": {},
    "beyond": BEYOND_TIME,
}
"""What a field may hold that nobody wrote."""


def odd_value(name: str) -> Any:
    return ODD_VALUES[name] if ODD_VALUES[name] is MISSING else copy(ODD_VALUES[name])


@step
def spoil(life: Life, *, collection: str, pick: int, field: str, value: str, mends_after: float) -> None:
    """A field of a document of ours holds something odd, until a person mends it."""
    life.spoil(collection, pick, field, value, mends_after)


@step
def strange(life: Life, *, collection: str, document_id: str, field: str, value: str, **fields: Any) -> None:
    """A document that another program left in a collection of ours, with one field that cannot be read, and that nobody mends."""
    life.leave_strange(collection, document_id, field, value, fields)


# --- drawing --------------------------------------------------------------------------------------------------------

PORTS: Mapping[str, tuple[str, ...]] = {
    "store": (
        "store.execution_orders.*",
        "store.execution_orders.update_one",
        "store.execution_orders.bulk_write",
        "store.execution_orders.insert_many",
        "store.execution_orders.find",
        "store.execution_commands.*",
        "store.execution_positions.*",
        "store.execution_leases.*",
        "store.execution_alerts.*",
        "store.execution_ledger_lines.*",
        "store.execution_confirmations.*",
        "store.signal_store.*",
        "store.positions.*",
        "store.*",
    ),
    "publish": ("publish",),
    "telegram": ("telegram",),
    "broker": (
        "broker.place_order",
        "broker.place_order",
        "broker.cancel_order",
        "broker.reports",
        "broker.find",
        "broker.find_all",
        "broker.positions",
        "broker.connect",
        "broker.*",
    ),
    "messages": ("orders.ack", "commands.ack"),
}
"""The calls that may meet something, by port."""

ACTIONS: Mapping[str, tuple[Action, ...]] = {
    "store": (
        Action.REFUSE,
        Action.LOST,
        Action.LOST,
        Action.LATE,
        Action.HANG,
        Action.HANG_DONE,
        Action.HALF,
        Action.DIE_BEFORE,
        Action.DIE_AFTER,
    ),
    "publish": (
        Action.REFUSE,
        Action.LOST,
        Action.LATE,
        Action.HANG,
        Action.HANG_DONE,
        Action.BREAK,
        Action.TWICE,
        Action.DIE_AFTER,
    ),
    "telegram": (
        Action.REFUSE,
        Action.LOST,
        Action.LATE,
        Action.HANG,
        Action.BREAK,
        Action.DIE_AFTER,
    ),
    "broker": (
        Action.REFUSE,
        Action.LOST,
        Action.LOST,
        Action.LATE,
        Action.SLOW,
        Action.HANG,
        Action.HANG_DONE,
        Action.ARRIVES_LATER,
        Action.BREAK,
        Action.BREAK_DONE,
        Action.ODD,
        Action.DIE_BEFORE,
        Action.DIE_AFTER,
    ),
    "messages": (Action.LOST, Action.DIE_BEFORE, Action.DIE_AFTER),
}

OURS: Mapping[str, tuple[str, ...]] = {
    "execution_orders": ("version", "told", "events", "status", "request", "received_at"),
    "execution_commands": ("body", "received_at", "status", "active_until"),
    "execution_positions": ("quantity", "version", "applied", "instrument"),
    "execution_ledger_lines": ("lines",),
    "execution_leases": ("holder", "epoch", "beat", "taken_at", "term_seconds"),
    "execution_alerts": ("text", "count", "first_at", "kind"),
}
"""Our collections, with fields that may be spoilt."""


def draw(seed: int) -> History:
    """The life of this seed."""
    luck = random.Random(f"life:{seed}")
    replicas = 2 if luck.random() < 0.4 else 1
    accounts = ["acct-1"] if luck.random() < 0.6 else ["acct-1", "acct-2"]
    options = {
        "replicas": replicas,
        "has_leases": replicas > 1 or luck.random() < 0.2,
        "accounts": accounts,
        "is_unique": luck.random() < 0.8,
        "uses_ordering_keys": luck.random() < 0.2,
        "order_timeout_seconds": luck.choice([30.0, 60.0]),
        "max_order_age_seconds": luck.choice([200.0, 300.0]),
        "shuffles": luck.choice([0.0, 0.5, 1.0]),
        "passes_over": luck.choice([0.0, 0.0, 0.1, 0.3]),
        "market": {
            "fill_delay_seconds": luck.choice([None, 0.0, 0.5, 4.0]),
            "partial_fill_rate": luck.choice([0.0, 0.3]),
            "rejection_rate": luck.choice([0.0, 0.0, 0.1]),
            "seed": seed,
        },
    }
    steps = _drawn_orders(luck, accounts)
    signals = [s.args["signal"] for s in steps if s.do == "order"]
    times = {s.args["signal"]: s.at for s in steps if s.do == "order"}
    for _ in range(luck.randint(2, 12)):
        steps.append(_drawn_event(luck, luck.choice(signals), times, accounts))
    for _ in range(luck.choice([0, 1, 1, 2, 3, 4, 6])):
        steps.append(_drawn_trouble(luck, replicas, accounts, signals))
    if luck.random() < 0.08:
        steps += _drawn_restart_in_a_pause(luck, times)
    if options["has_leases"] and luck.random() < 0.06:
        steps += _drawn_unconfigured(luck)
        options["accounts"] = [*accounts, "acct-3"]
    options["well_at"] = luck.choice([62.0, 62.0, 80.0])
    options["past"] = luck.choice([0, 12])
    if options["has_leases"] and luck.random() < 0.1:
        steps.append(_drawn_spoilt_lease(luck))
    steps += _drawn_switches(random.Random(f"switches:{seed}"), accounts)
    options["limits"] = _drawn_limits(random.Random(f"limits:{seed}"))
    steps = _with_protection(random.Random(f"protection:{seed}"), steps)
    steps = _with_trails(random.Random(f"trails:{seed}"), steps)
    steps = _with_icebergs(random.Random(f"icebergs:{seed}"), steps)
    combined = _drawn_combinations(random.Random(f"option spreads:{seed}"), accounts, replicas)
    if combined:
        options |= {"combines": True, "is_unique": True}
    steps += combined
    return History(seed, options, tuple(sorted(steps, key=lambda s: s.at)))


def _with_protection(luck: random.Random, steps: list[Step]) -> list[Step]:
    """In some lives entries name a stop, a target or both, and the venue executes what protects them; by a luck of its own."""
    if luck.random() > 0.35:
        return steps
    found: list[Step] = []
    for each in steps:
        args = each.args
        if each.do != "order" or "entry_signal_id" in args or "total_legs" in args or luck.random() > 0.8:
            found.append(each)
            continue
        near, far = (8, 13) if args.get("side") != "SELL" else (12, 7)
        exits: dict[str, Any] = luck.choice([{"stop_loss": near}] * 2 + [{"stop_loss": near, "take_profit": far}] * 2)
        found.append(Step(each.at, "order", {**args, **exits}))
        for _ in range(luck.choice([0, 1, 1, 2])):
            what = {"signal": args["signal"], "pick": luck.randrange(4)}
            if luck.random() < 0.7:
                found.append(Step(_moment(luck, each.at), "hit", what | {"part": luck.choice([0.3, 1.0])}))
            else:
                found.append(Step(_moment(luck, each.at), "removed", what))
    return found


def _with_trails(luck: random.Random, steps: list[Step]) -> list[Step]:
    """Some stops follow the market, which is known by executions, with the entry's own beside it or without."""
    found: list[Step] = []
    for each in steps:
        if each.do == "order" and "stop_loss" in each.args and luck.random() < 0.4:
            trail = luck.choice([{"trail_percent": 5}, {"trail_percent": 20}, {"trail_amount": 1}])
            kept = {name: value for name, value in each.args.items() if name != "stop_loss" or luck.random() < 0.5}
            each = Step(each.at, "order", kept | trail)
        found.append(each)
    return found


def _with_icebergs(luck: random.Random, steps: list[Step]) -> list[Step]:
    """Of some orders with a limit only a part is shown, and the venue fills them part by part."""
    found: list[Step] = []
    for each in steps:
        args = each.args
        rests = each.do == "order" and args.get("order_type") == "LIMIT" and args.get("tif") != "IOC"
        if rests and args.get("quantity", 0) > 1 and luck.random() < 0.3:
            whole = args["quantity"]
            each = Step(
                each.at, "order", args | {"display_quantity": luck.choice([whole // 7 or 1, whole // 3, whole - 1])}
            )
        found.append(each)
    return found


COMBINATIONS: tuple[tuple[tuple[int, str, str, int], ...], ...] = (
    ((500, "CALL", "BUY", 1), (510, "CALL", "SELL", 1)),
    ((500, "CALL", "BUY", 1), (510, "CALL", "SELL", 2), (520, "CALL", "BUY", 1)),
    ((500, "CALL", "SELL", 1), (500, "PUT", "SELL", 1)),
)
"""A spread, a butterfly and a straddle that is sold: strike, right, side and ratio of each leg."""


def _drawn_combinations(luck: random.Random, accounts: list[str], replicas: int) -> list[Step]:
    """In some lives the broker takes options that are legs of one signal as one order; its legs come together or one by one, one of them perhaps
    never, and the venue, people and the call that places it do what they do. By a luck of its own."""
    if luck.random() > 0.12:
        return []
    steps: list[Step] = []
    for number in range(luck.choice([1, 1, 2])):
        signal, at = f"c{number}", _moment(luck)
        legs, units = luck.choice(COMBINATIONS), luck.choice([1, 2, 5])
        whole = {
            "account_id": luck.choice(accounts),
            "symbol": "SPY",
            "instrument_type": "OPTION",
            "expiry": "20270115",
        }
        terms: dict[str, Any] = luck.choice([{}, {"order_type": "LIMIT", "limit_price": 10}])
        if luck.random() < 0.15:
            terms = terms | {"tif": luck.choice(["DAY", "GTC", "IOC"])}
        spread = luck.choice([0.0, 0.0, 0.3, 4.0, 40.0])
        missing = luck.randrange(len(legs)) if luck.random() < 0.1 else None
        for index, (strike, right, side, ratio) in enumerate(legs):
            leg = whole | {"strike": strike, "right": right, "quantity": ratio * units}
            if index != missing:
                place = {"leg_index": index, "total_legs": len(legs), "side": side, **terms}
                moment = round(at + luck.uniform(0.0, spread), 3)
                steps.append(Step(moment, "order", {"signal": signal, **leg, **place}))
            if luck.random() < 0.2:
                closing = "SELL" if side == "BUY" else "BUY"
                taken = {"signal_type": "EXIT", "entry_signal_id": signal, "side": closing}
                steps.append(Step(_moment(luck, at), "order", {"signal": f"x{signal}{index}", **leg, **taken}))
        steps += [_drawn_of_combination(luck, signal, at, len(legs)) for _ in range(luck.randint(1, 5))]
        if luck.random() < 0.6:
            action = luck.choice(ACTIONS["broker"])
            args = {"pattern": "broker.place_combined", "action": action.value, "times": luck.choice([1, 1, 2])}
            args |= {"seconds": luck.choice([0.3, 2.0, 12.0, 40.0]), "replica": luck.choice([None, *range(replicas)])}
            steps.append(Step(round(max(0.0, at - 0.1), 3), "fault", args))
        if luck.random() < 0.3:
            steps.append(Step(round(at + luck.uniform(0.0, 1.0), 3), "kill", {"replica": 0, "down": 1.0}))
    return steps


def _drawn_of_combination(luck: random.Random, signal: str, at: float, legs: int) -> Step:
    named = {"signal": signal}
    match luck.choice(["fill"] * 4 + ["cancel"] * 2 + ["again", "bust", "correct", "unasked", "fee"]):
        case "fill":
            more = {"part": luck.choice([0.2, 0.5, 1.0]), "late_commission": luck.random() < 0.3}
            return Step(_moment(luck, at), "fill", named | more)
        case "cancel":
            leg = luck.choice([None, *range(legs)])
            soon = round(at + luck.choice([0.0, 0.05, 0.5, 5.0]), 3)
            return Step(luck.choice([soon, _moment(luck, at)]), "cancel", named | {"by": "signal", "leg": leg})
        case "unasked":
            return Step(_moment(luck, at), luck.choice(["venue_cancels", "venue_rejects"]), named)
        case "correct":
            return Step(_moment(luck, at), "correct", named | {"price": "9.75"})
        case "fee":
            return Step(_moment(luck, at), "commission", named | {"amount": luck.choice(["-1", "0.35"])})
        case bare:
            return Step(_moment(luck, at), bare, named)


def _drawn_limits(luck: random.Random) -> dict[str, int]:
    """What `risk.toml` has for everybody; nothing in most lives. By a luck of its own: the rest of a life is the same with and without."""
    if luck.random() < 0.6:
        return {}
    limits = {"max_open_orders": luck.choice([1, 2, 4]), "max_position_quantity": luck.choice([50, 100, 150])}
    drawn = {name: value for name, value in limits.items() if luck.random() < 0.7}
    if luck.random() < 0.4:
        drawn["max_order_value"] = 1_000_000  # nothing comes near it; but the broker is asked for quotes
    return drawn


def _moment(luck: random.Random, earliest: float = 0.0) -> float:
    return round(luck.uniform(earliest, LIVES_SECONDS), 3)


def _drawn_orders(luck: random.Random, accounts: list[str]) -> list[Step]:
    steps = []
    entries: list[tuple[str, float, dict[str, Any]]] = []
    for number in range(luck.randint(2, 9)):
        at = _moment(luck)
        kind = luck.choice(["MARKET", "MARKET", "LIMIT", "STOP", "STOP_LIMIT"])
        fields: dict[str, Any] = {
            "account_id": luck.choice(accounts),
            "symbol": luck.choice(SYMBOLS),
            "quantity": luck.choice([1, 10, 100]),
            "side": luck.choice(["BUY", "BUY", "SELL"]),
            "order_type": kind,
        }
        if kind in ("LIMIT", "STOP_LIMIT"):
            fields["limit_price"] = luck.choice([9, 10, 11])
        if kind in ("STOP", "STOP_LIMIT"):
            fields["stop_price"] = 10
        if luck.random() < 0.15:
            fields["tif"] = luck.choice(["DAY", "GTC", "IOC"])
        if luck.random() < 0.2:
            fields["order_id"] = f"req-{number}"
        if luck.random() < 0.08:
            fields |= {"leg_index": 0, "total_legs": 2}
            other = {"leg_index": 1, "symbol": "NVDA", "side": "SELL"}
            steps.append(Step(_moment(luck, at), "order", {"signal": f"s{number}", **fields, **other}))
        elif luck.random() < 0.03:
            fields["quantity"] = -5
        steps.append(Step(at, "order", {"signal": f"s{number}", **fields}))
        entries.append((f"s{number}", at, fields))
    for signal, at, fields in luck.sample(entries, k=luck.randint(0, len(entries))):
        if "leg_index" in fields:
            continue
        for part in luck.choice([(1.0,), (1.0,), (0.5, 0.5), (1.0, 1.0)]):
            taken = {
                "signal_type": "EXIT",
                "entry_signal_id": signal,
                "account_id": fields["account_id"],
                "symbol": fields["symbol"],
                "side": "SELL" if fields["side"] == "BUY" else "BUY",
                "quantity": max(1, int(abs(fields["quantity"]) * part)),
            }
            later = luck.choice([max(0.0, at - 1.0), at, at + 0.01, _moment(luck, at)])
            name = f"x{signal[1:]}{'ab'[len([s for s in steps if s.args['signal'].startswith(f'x{signal[1:]}')]) % 2]}"
            steps.append(Step(round(later, 3), "order", {"signal": name, **taken}))
    return steps


def _drawn_event(luck: random.Random, signal: str, times: Mapping[str, float], accounts: list[str]) -> Step:
    """What upstream, the venue and people do without anything being wrong."""
    at = _moment(luck, times[signal]) if luck.random() < 0.9 else _moment(luck)
    match luck.choice(["fill"] * 5 + ["cancel"] * 3 + ["again", "bust", "correct", "unasked", "garbage"] + ["fee"] * 3):
        case "fill":
            args = {"part": luck.choice([0.2, 0.5, 1.0, 1.0]), "price": luck.choice([None, "9.5", "10.25"])}
            return Step(at, "fill", {"signal": signal, **args, "late_commission": luck.random() < 0.3})
        case "cancel":
            if luck.random() < 0.3:
                at = round(max(0.0, times[signal] + luck.choice([-2.0, 0.0, 0.002, 0.05, 0.5])), 3)
            by = luck.choice(["signal", "order_id"])
            return Step(at, "cancel", {"signal": signal, "by": by, "times": luck.choice([1, 1, 2])})
        case "again":
            changes = {} if luck.random() < 0.8 else {"quantity": 77}
            return Step(at, "again", {"signal": signal, **changes})
        case "bust":
            return Step(at, "bust", {"signal": signal})
        case "correct":
            return Step(at, "correct", {"signal": signal, "price": luck.choice(["9.75", "10.5"])})
        case "unasked":
            return Step(at, luck.choice(["venue_cancels", "venue_rejects"]), {"signal": signal})
        case "garbage":
            topic = luck.choice(["orders", "commands"])
            return Step(at, "garbage", {"topic": topic, "text": luck.choice(["{", "[]", '{"signal_id": 1e999}', ""])})
        case _:
            amount = luck.choice(["-1", "-2", "-2", "-1", "0.35", "1.00"])
            return Step(_moment(luck, at), "commission", {"signal": signal, "amount": amount})


def _drawn_trouble(luck: random.Random, replicas: int, accounts: list[str], signals: list[str]) -> Step:
    at = _moment(luck)
    replica = luck.choice([None, *range(replicas)])
    match luck.choice(
        ["port"] * 6 + ["away"] * 2 + ["kill"] * 2 + ["stop", "inside", "inside", "spoil", "strange", "book", "book"]
    ):
        case "port":
            port = luck.choice(["store", "store", "broker", "broker", "publish", "telegram", "messages"])
            action = luck.choice(ACTIONS[port])
            args: dict[str, Any] = {
                "pattern": luck.choice(PORTS[port]),
                "action": action.value,
                "times": 1 if action in (Action.DIE_BEFORE, Action.DIE_AFTER) else luck.choice([1, 1, 2, 4]),
                "skips": luck.choice([0, 0, 1, 2, 5]),
                "seconds": luck.choice([0.3, 2.0, 12.0, 40.0]),
                "replica": replica,
            }
            if port == "publish" and action in (Action.HANG, Action.HANG_DONE):
                args |= {"seconds": 40.0, "times": luck.choice([1, 4])}
            return Step(at, "fault", args)
        case "away":
            port = luck.choice(["store", "store", "broker", "publish", "telegram"])
            return Step(
                at,
                "away",
                {
                    "port": port,
                    "replica": luck.choice([-1, *range(replicas)]),
                    "seconds": luck.choice([1.0, 5.0, 20.0, 60.0]),
                },
            )
        case "kill":
            return Step(at, "kill", {"replica": luck.randrange(replicas), "down": luck.choice([0.5, 3.0, 15.0])})
        case "stop":
            return Step(at, "stop", {"replica": luck.randrange(replicas), "down": luck.choice([0.5, 3.0, 15.0])})
        case "inside":
            name = luck.choice(sorted(INSIDE))
            is_of_order = name in ("inside.next_step", "inside.learn", "inside.intend", "inside.confirmation")
            about = luck.choice(signals) if is_of_order else "*"
            times = luck.choice([1, 2, 30]) if is_of_order else luck.choice([1, 1, 2])
            return Step(at, "fault", {"pattern": name, "action": "break", "about": about, "times": times})
        case "spoil":
            collection = luck.choice(sorted(OURS))
            return Step(
                at,
                "spoil",
                {
                    "collection": collection,
                    "pick": luck.randrange(8),
                    "field": luck.choice(OURS[collection]),
                    "value": luck.choice(sorted(ODD_VALUES)),
                    "mends_after": luck.choice([5.0, 30.0]),
                },
            )
        case "strange":
            return _drawn_strange(luck, at)
        case _:
            return _drawn_book_fault(luck, at, luck.choice(accounts))


def _drawn_strange(luck: random.Random, at: float) -> Step:
    collection = luck.choice(["execution_commands", "execution_commands", "execution_alerts", "execution_orders"])
    args: dict[str, Any] = {
        "collection": collection,
        "document_id": f"strange-{luck.randrange(1000)}",
        "field": luck.choice(OURS[collection]),
        "value": luck.choice(sorted(ODD_VALUES)),
    }
    if collection == "execution_commands":
        args["kind"] = luck.choice(["CANCEL", "RECONCILE", "RESOLVE", "REPLAY", "POSITIONS", "ADOPT", "WHAT"])
    return Step(at, "strange", args)


def _drawn_book_fault(luck: random.Random, at: float, account: str) -> Step:
    operation, action, more = luck.choice(
        [
            ("place", "hold", {}),
            ("place", "reject", {}),
            ("place", "overfill", {"quantity": "3"}),
            ("place", "late_commission", {"seconds": 5.0}),
            ("place", "never_answer", {"accepted": True}),
            ("place", "never_answer", {"accepted": False}),
            ("place", "accept_then_drop", {}),
            ("cancel", "ignore_cancel", {}),
            ("cancel", "cancel_race", {}),
            ("cancel", "late_fill_after_cancel", {"seconds": 3.0}),
            ("cancel", "never_answer", {"accepted": True}),
            ("reports", "hide", {"times": 3}),
            ("reports", "duplicate", {}),
            ("reports", "reorder", {}),
            ("find", "hide", {"times": 2}),
        ]
    )
    return Step(at, "at_the_book", {"account": account, "operation": operation, "action": action, **more})


def _drawn_restart_in_a_pause(luck: random.Random, times: Mapping[str, float]) -> list[Step]:
    """An order cannot leave, its queue makes a pause, and in that the account's part is begun anew."""
    _, at = luck.choice(sorted(times.items()))
    refuse = {"pattern": "broker.place_order", "action": "refuse", "times": luck.choice([1, 2, 3])}
    restart = {"pattern": "inside.start_queues", "action": "break", "times": 1}
    return [
        Step(round(max(0.0, at - 0.1), 3), "fault", refuse),
        Step(round(at + luck.choice([0.1, 0.4, 0.8, 1.5]), 3), "fault", restart),
    ]


def _drawn_spoilt_lease(luck: random.Random) -> Step:
    """Early, and for so long that whatever waits for it is seen to wait; of the account that nobody is configured for, perhaps."""
    args = {"collection": "execution_leases", "pick": luck.randrange(2), "field": luck.choice(OURS["execution_leases"])}
    value = luck.choice(["gone", "text", "beyond", "list"])
    return Step(round(luck.uniform(0.5, 25.0), 3), "spoil", args | {"value": value, "mends_after": 60.0})


def _drawn_switches(luck: random.Random, accounts: list[str]) -> list[Step]:
    """In some lives somebody stops, and perhaps lets trade again; by chances of their own, so that all else is as it would be without."""
    if luck.random() > 0.2:
        return []
    at = _moment(luck)
    scope = luck.choice(["all", "all", f"account:{luck.choice(accounts)}", f"symbol:{luck.choice(SYMBOLS)}"])
    level = luck.choice(["reduce_only", "reduce_only", "halt"])
    steps = [Step(at, "engage", {"scope": scope, "level": level, "cancel_entries": luck.random() < 0.4})]
    if luck.random() < 0.5:
        steps.append(Step(_moment(luck), "engage", {"scope": scope, "level": level}))
    if luck.random() < 0.4:
        after = luck.choice([1.0, 61.0, 65.0])
        steps.append(Step(round(at + luck.choice([0.0, 1.0, 5.0]), 3), "arm", {"scope": scope, "after": after}))
    if luck.random() < 0.5:
        pattern = luck.choice(["store.execution_kill_switches.*", "store.execution_commands.*"])
        action = luck.choice(ACTIONS["store"])
        times = 1 if action in (Action.DIE_BEFORE, Action.DIE_AFTER) else luck.choice([1, 2, 4])
        args = {"pattern": pattern, "action": action.value, "times": times, "skips": luck.choice([0, 0, 1])}
        steps.append(
            Step(
                round(max(0.0, at - luck.choice([0.0, 0.5])), 3), "fault", args | {"seconds": luck.choice([0.3, 12.0])}
            )
        )
    if luck.random() < 0.2:
        odd = {
            "collection": "execution_kill_switches",
            "pick": 0,
            "field": luck.choice(["version", "switch", "history"]),
        }
        odd |= {"value": luck.choice(sorted(ODD_VALUES)), "mends_after": luck.choice([5.0, 30.0])}
        steps.append(Step(round(at + luck.choice([1.0, 4.0]), 3), "spoil", odd))
    return steps


def _drawn_unconfigured(luck: random.Random) -> list[Step]:
    at = _moment(luck)
    first = {"signal": "u0", "account_id": "acct-3", "order_type": "LIMIT", "limit_price": 9, "timeout_seconds": 0}
    args: dict[str, Any] = {"account": "acct-3", "down": luck.choice([0.5, 2.0])}
    # The lease of what nobody is configured for is taken when it has run out, and people are told some seconds later.
    args["store_away_after"] = luck.choice([None, round(luck.uniform(1.0, 3.5), 2), round(luck.uniform(7.0, 11.0), 2)])
    return [
        Step(at, "order", first),
        Step(at, "at_the_book", {"account": "acct-3", "operation": "place", "action": "hold"}),
        Step(round(at + luck.uniform(2.0, 8.0), 3), "unconfigure", args),
    ]


def ref_of(placed: PaperOrder) -> OrderRef:
    return OrderRef(client_order_id=placed.ticket.client_order_id, broker_order_id=placed.broker_order_id)


VENUE_REFUSES = (ValueError, BrokerError, StopIteration)
"""A step at the venue that does not fit the order as it is by then does nothing."""
