"""Publishes a sample order to `trading-orders` and follows it to its end; the samples are in `tests/signals_testing`.
Decides nothing about orders.

Exit status: 0 every order reached its end and none was rejected; 3 an order was rejected, or is a dead letter; 1 nothing
could be sent, or an order did not end in time; 2 wrong arguments or settings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from execution_service.app.own_python import use_own_python

    use_own_python()

from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError
from google.cloud import pubsub_v1
from rich.console import Console

from execution_service.app.settings.loading import Settings
from execution_service.app.settings.model import REPOSITORY_ROOT
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.positions.ledger import key_of
from execution_service.core.texts.log import log_line
from execution_service.core.texts.values import plain, quantity, quoted
from execution_service.core.views.shared import confirmation_id
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.reader import StoreReader
from scripts.display import counted, new_console, print_json, shown_time
from scripts.locate import HOW_TO_START, pubsub_host, running_service, settings_or_exit, store_of, use_pubsub, view_of
from scripts.locate import NotFound as ServiceNotFound

SAMPLES = REPOSITORY_ROOT / "tests" / "signals_testing"
TOPIC = "trading-orders"
CALL_SECONDS = 5.0
LOOK_SECONDS = 0.1
LOOK_AT_MANY_SECONDS = 1.0
MANY = 12
"""With more orders than this, only their number and their ends are shown."""
NAMED_AT_MOST = 5
GRACE_SECONDS = 3.0
"""How long to wait for a confirmation after the record says that it was published."""

EXIT_FAILED, EXIT_ARGUMENTS, EXIT_REJECTED = 1, 2, 3


class CannotSend(Exception):
    """The message says what is missing and what to do."""


class WrongArguments(CannotSend):
    """The requested message cannot be built; the message says what can."""


@dataclass(slots=True)
class FollowedOrder:
    """One published order and what is known of it."""

    parsed: ParsedOrder
    message_id: str
    dead_letter: str | None = None
    seen_events: int = -1
    record: Order | None = None
    confirmation: Mapping[str, Any] | None = None
    told_since: float | None = None
    position: Mapping[str, object] | None = field(default=None)

    @property
    def order_id(self) -> str:
        return self.parsed.identity.order_id

    @property
    def name(self) -> str:
        leg = self.parsed.identity.leg_index
        is_leg = self.parsed.request.total_legs > 1
        return plain(self.parsed.identity.signal_id) + (f" leg {leg}" if is_leg else "")

    @property
    def status(self) -> str | None:
        if self.confirmation is not None:
            return str(self.confirmation["status"])
        return None if self.record is None else self.record.status.value


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = new_console(to_stderr=options.json)
    settings = settings_or_exit()
    try:
        bodies = _bodies(options)
        with _Wire(settings, options) as wire:
            return _run(wire, bodies, options, console)
    except WrongArguments as exc:
        print(f"Cannot send: {exc}", file=sys.stderr)
        return EXIT_ARGUMENTS
    except (CannotSend, ServiceNotFound) as exc:
        print(f"Cannot send: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        print("No longer waiting; what was published goes on.", file=sys.stderr)
    return EXIT_FAILED


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Publishes a sample order and follows it to its end.",
        epilog="Exit status: 0 ended and not rejected, 3 rejected or a dead letter, 1 not sent or no end in time, "
        "2 wrong arguments or settings.",
    )
    parser.add_argument("--file", required=True, help="a sample's name (they lie in tests/signals_testing) or a path")
    parser.add_argument("--account-id", "--account", help="another account than the sample's")
    parser.add_argument("--quantity", type=_amount, help="another quantity than the sample's")
    parser.add_argument("--entry", metavar="SIGNAL_ID", help="the entry that an exit sample closes")
    parser.add_argument(
        "--signal-id", help="another signal id than the sample's; repeat one to see a duplicate ignored"
    )
    parser.add_argument("--count", type=_positive, default=1, help="publish so many, each with its own signal id")
    parser.add_argument("--timeout", type=float, default=90.0, metavar="SECONDS", help="follow so long (default 90)")
    parser.add_argument("--no-wait", action="store_true", help="publish only")
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, the story on the other"
    )
    return parser.parse_args(arguments)


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from exc


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


# --- what is sent ---------------------------------------------------------------------------------------------------


def _bodies(options: argparse.Namespace) -> list[bytes]:
    """Every message, legs one after the other. Raises WrongArguments."""
    path = _sample(options.file)
    text = path.read_text(encoding="utf-8")
    if "{entry}" in text and options.entry is None:
        raise WrongArguments(f"{path.name} is an exit: name the signal id of the entry that it closes with --entry")
    now = datetime.now(UTC)
    bodies = []
    for n in range(1, options.count + 1):
        suffix = f"_{n:04d}" if options.count > 1 else ""
        filled = text.replace("{now}", f"{now:%Y%m%d_%H%M%S_%f}{suffix}")
        filled = filled.replace("{december}", next_december(now)).replace(
            "{entry}", json.dumps(options.entry or "")[1:-1]
        )
        try:
            sample = json.loads(filled)
        except ValueError as exc:
            raise WrongArguments(f"{path} is not JSON: {exc}") from exc
        legs = sample if isinstance(sample, list) else [sample]
        signal_id = None if options.signal_id is None else options.signal_id + suffix
        bodies += [json.dumps(_changed(leg, signal_id, options, now)).encode() for leg in legs]
    return bodies


def next_december(now: datetime) -> str:
    """The month (like 202712) of a future that is listed and not about to expire."""
    return f"{now.year + (now.month > 10)}12"


def _sample(name: str) -> Path:
    for path in (Path(name), SAMPLES / name, SAMPLES / f"{name}.json"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.name for p in SAMPLES.glob("*.json")))
    raise WrongArguments(f"there is no sample {name!r}; here are: {known}")


def _changed(leg: Any, signal_id: str | None, options: argparse.Namespace, now: datetime) -> Any:
    if not isinstance(leg, dict):
        return leg
    changed = dict(leg)
    if signal_id is not None:
        was = changed.get("signal_id")
        changed["signal_id"] = signal_id
        if isinstance(was, str) and isinstance(changed.get("order_id"), str):
            changed["order_id"] = changed["order_id"].replace(was, signal_id)
    if options.account_id is not None:
        changed["account" if "account" in changed else "account_id"] = options.account_id
    if options.quantity is not None:
        whole = options.quantity.is_finite() and options.quantity == options.quantity.to_integral_value()
        changed["quantity"] = int(options.quantity) if whole else str(options.quantity)
    for name in ("timestamp", "created_at"):
        if name in changed:
            changed[name] = f"{now:%Y-%m-%d %H:%M:%S.%f}"
    return changed


# --- the way there and back -----------------------------------------------------------------------------------------


class _Wire:
    """The publisher, our own subscription to the confirmations, and the store's reader; the latter two if available."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:
        notice = running_service(settings)
        self.project = use_pubsub(settings, notice)
        self._is_google = pubsub_host(settings, notice) is None
        self.is_running_here = notice is not None
        self.settings = settings
        self.confirmations: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self.is_subscribed = False
        self.why_not_subscribed = ""
        store = store_of(settings, notice)
        self.view = None if store is None else view_of(store)
        self._wants_confirmations = not options.no_wait
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Wire:
        with contextlib.ExitStack() as stack:
            if self.view is not None:
                stack.callback(self.view.close)
            self._publisher = pubsub_v1.PublisherClient()
            stack.callback(self._publisher.stop)
            self._topic = self._publisher.topic_path(self.project, TOPIC)
            try:
                self._publisher.get_topic(topic=self._topic, timeout=CALL_SECONDS, retry=None)
            except NotFound as exc:
                raise CannotSend(f"the topic {self._topic} does not exist") from exc
            except (GoogleAPICallError, RetryError) as exc:
                raise CannotSend(
                    f"Pub/Sub does not answer ({exc}): {HOW_TO_START}, or correct PUBSUB_EMULATOR_HOST"
                ) from exc
            if self._wants_confirmations:
                stack.enter_context(self._subscribed())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _subscribed(self) -> Iterator[None]:
        """A temporary subscription, created before anything is published. Without the right to create one, the store
        is read instead."""
        client = pubsub_v1.SubscriberClient()
        topic = client.topic_path(self.project, self.settings.execution_confirmations_topic)
        path = client.subscription_path(self.project, f"send-test-signal-{time.time_ns():x}")
        wish: dict[str, object] = {"name": path, "topic": topic, "message_retention_duration": {"seconds": 600}}
        if self._is_google:
            wish["expiration_policy"] = {"ttl": {"seconds": 24 * 3600}}  # removed by Google if this process is killed
        try:
            client.create_subscription(request=wish, timeout=CALL_SECONDS, retry=None)
        except (GoogleAPICallError, RetryError) as exc:
            self.why_not_subscribed = str(exc)
            client.close()
            yield
            return
        self.is_subscribed = True
        pull = client.subscribe(path, self._received)
        try:
            yield
        finally:
            pull.cancel()
            with contextlib.suppress(Exception):  # the stream has ended, in whatever way
                pull.result(timeout=CALL_SECONDS)
            with contextlib.suppress(GoogleAPICallError, RetryError):  # it expires by itself
                client.delete_subscription(subscription=path, timeout=CALL_SECONDS, retry=None)
            client.close()

    def _received(self, message: Any) -> None:
        message.ack()
        self.confirmations.put(json.loads(message.data))

    def publish(self, bodies: Sequence[bytes]) -> list[str]:
        """The message ids. Raises CannotSend."""
        futures = [self._publisher.publish(self._topic, body) for body in bodies]
        try:
            return [future.result(timeout=30.0) for future in futures]
        except (GoogleAPICallError, RetryError, TimeoutError) as exc:
            raise CannotSend(f"publishing failed: {exc}") from exc


# --- following ------------------------------------------------------------------------------------------------------


def _run(wire: _Wire, bodies: Sequence[bytes], options: argparse.Namespace, console: Console) -> int:
    progress = _Progress(console, is_short=len(bodies) > MANY)
    if not wire.is_running_here:
        progress.say("no execution service runs on this DATA_DIR: relying on one elsewhere")
    if not options.no_wait and not wire.is_subscribed:
        progress.say(f"no subscription of our own ({wire.why_not_subscribed}): looking into the store instead")
        if wire.view is None:
            raise CannotSend("the store cannot be looked at either; use --no-wait")
    parsed = [parse_order(body) for body in bodies]
    ids = wire.publish(bodies)
    followed = {}
    for body, order, message_id in zip(bodies, parsed, ids, strict=True):
        if isinstance(order, Unusable):
            progress.say(f"message {message_id} of {len(body)} bytes will be a dead letter: {order.reason}")
            continue
        one = FollowedOrder(order, message_id)
        followed[one.order_id] = one
        progress.report(one, f"published to {TOPIC}, message {message_id}")
    if progress.is_short:
        progress.say(f"published {len(bodies)} messages to {TOPIC}")
    has_unusable = any(isinstance(order, Unusable) for order in parsed)
    if not options.no_wait:
        _follow(wire, followed, options.timeout, progress)
    return _conclude(wire, tuple(followed.values()), options, progress, has_unusable=has_unusable)


class _Progress:
    """Shows the progress: lines above a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, *, is_short: bool) -> None:
        self.console = console
        self.is_short = is_short

    def say(self, words: str) -> None:
        self.console.print(f"{shown_time(datetime.now(UTC))}  {plain(words)}")

    def report(self, one: FollowedOrder, words: str, at: datetime | None = None) -> None:
        if not self.is_short:
            self.console.print(f"{shown_time(at or datetime.now(UTC))}  {one.name}  {words}")


def _follow(wire: _Wire, followed: Mapping[str, FollowedOrder], timeout_seconds: float, progress: _Progress) -> None:
    end = time.monotonic() + timeout_seconds
    look_every = LOOK_AT_MANY_SECONDS if progress.is_short else LOOK_SECONDS
    next_look = 0.0
    open_ids = set(followed)
    with progress.console.status("waiting for the orders' ends") as spinner:
        while open_ids and time.monotonic() < end:
            heard = []
            with contextlib.suppress(queue.Empty):
                heard.append(wire.confirmations.get(timeout=look_every))
                while True:
                    heard.append(wire.confirmations.get_nowait())
            if wire.view is not None and (time.monotonic() >= next_look or (heard and not progress.is_short)):
                # Print the record's events before confirmations received meanwhile.
                _look(wire.view, [followed[i] for i in open_ids], progress)
                next_look = time.monotonic() + look_every
            for body in heard:
                _on_confirmation(body, followed, progress)
            open_ids = {i for i in open_ids if not _has_ended(followed[i], wire)}
            left = max(0.0, end - time.monotonic())
            spinner.update(f"{len(followed) - len(open_ids)} of {len(followed)} ended, waiting {left:.0f} s more")
    if wire.view is not None:
        _look(wire.view, list(followed.values()), progress)


def _on_confirmation(body: Mapping[str, Any], followed: Mapping[str, FollowedOrder], progress: _Progress) -> None:
    mine = [
        one
        for one in followed.values()
        if (one.parsed.identity.signal_id, one.parsed.identity.leg_index) == (body["signal_id"], body["leg_index"])
    ]
    for one in mine:
        one.confirmation = body
        filled = (
            f"{quantity(Decimal(str(body['filled_quantity'])))} @ {body['avg_fill_price']}"
            if body["filled_quantity"]
            else "nothing filled"
        )
        why = "" if body["reason"] is None else f": {body['reason']['code']}: {body['reason']['message']}"
        progress.report(one, plain(f"confirmation {body['status']}, {filled}{why}"))


def _look(view: StoreReader, open_orders: Sequence[FollowedOrder], progress: _Progress) -> None:
    """Reads the records and prints their new events. A store that does not answer is asked again later."""
    try:
        stored = {s.order.order_id: s for s in view.load([one.order_id for one in open_orders])}
    except StoreUnavailable:
        return
    for one in open_orders:
        found = stored.get(one.order_id)
        if found is None:
            continue
        one.record = found.order
        if one.seen_events < 0:
            one.seen_events = 0
            is_ours = found.order.message_id == one.message_id
            known = (
                "" if is_ours else " by an earlier message: this one is ignored, or a dead letter if it says otherwise"
            )
            progress.report(one, f"recorded as {one.order_id}{known}", found.order.received_at)
        for applied_event in applied_events(found.order, one.seen_events):
            line = log_line(applied_event.before, applied_event.event, applied_event.after)
            if line is not None:
                progress.report(one, plain(line[0]), applied_event.event.at)
        one.seen_events = found.order.version
        is_published = found.order.status.is_final and found.told.world >= found.order.version
        one.told_since = (one.told_since or time.monotonic()) if is_published else None


def _has_ended(one: FollowedOrder, wire: _Wire) -> bool:
    if one.confirmation is not None and Status(one.confirmation["status"]).is_final:
        return True
    # Without a subscription, or if the confirmation came before we subscribed (a repeated signal), the record decides.
    grace = GRACE_SECONDS if wire.is_subscribed else 0.0
    return one.told_since is not None and time.monotonic() - one.told_since >= grace


# --- the end --------------------------------------------------------------------------------------------------------


def _conclude(
    wire: _Wire,
    orders: Sequence[FollowedOrder],
    options: argparse.Namespace,
    progress: _Progress,
    *,
    has_unusable: bool,
) -> int:
    counts: dict[str, int] = {}
    for one in orders:
        counts[one.status or "NOT SEEN"] = counts.get(one.status or "NOT SEEN", 0) + 1
        if not progress.is_short and not options.no_wait:
            try:
                _show_end(wire, one, progress)
            except StoreUnavailable as exc:
                progress.say(f"the store cannot be read now: {exc}")
    code = _exit_code(orders, options, has_unusable=has_unusable)
    if not options.no_wait:
        if progress.is_short:
            progress.say(
                f"of {counted(len(orders), 'order')}: "
                + ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
            )
        if code == EXIT_FAILED:
            late = [one for one in orders if one.status is None or Status(one.status) not in FINAL]
            progress.say(f"no end within {options.timeout:g} s: {_known(wire, late)}")
    _show_where_next(wire, orders, progress)
    if options.json:
        print_json({"exit": code, "orders": [_json(one) for one in orders]})
    return code


def _known(wire: _Wire, late: Sequence[FollowedOrder]) -> str:
    """What is known of orders that have not ended."""
    more = f" and {len(late) - NAMED_AT_MOST} more" if len(late) > NAMED_AT_MOST else ""
    words = [f"{one.name} {_state(one)}" for one in late[:NAMED_AT_MOST]]
    if any(one.status is None for one in late) and not wire.is_running_here:
        more += "; is a service running?"
    return ", ".join(words) + more


def _state(one: FollowedOrder) -> str:
    match one.status:
        case None:
            return "was not heard of"
        case Status.PENDING:
            return "is PENDING: stored, and not sent yet"
        case Status.SUBMITTED | Status.PARTIALLY_FILLED as status:
            return f"is {status}: it works at the broker"
    return f"is {one.status}"


def _exit_code(orders: Sequence[FollowedOrder], options: argparse.Namespace, *, has_unusable: bool) -> int:
    if options.no_wait:
        return EXIT_REJECTED if has_unusable else 0
    statuses = [None if one.status is None else Status(one.status) for one in orders]
    if Status.REJECTED in statuses or has_unusable or any(one.dead_letter for one in orders):
        return EXIT_REJECTED
    return 0 if all(status in FINAL for status in statuses) else EXIT_FAILED


def _show_end(wire: _Wire, one: FollowedOrder, progress: _Progress) -> None:
    if one.record is not None and one.record.status.is_final:
        progress.console.print()
        progress.console.print(f"{one.name}: {_summary(one.record)}")
    if one.confirmation is not None:
        progress.console.print("  confirmation: " + json.dumps(one.confirmation, ensure_ascii=True))
    if wire.view is None or one.record is None:
        return
    letter = None if one.record.message_id == one.message_id else wire.view.dead_letter(one.message_id)
    if letter is not None:
        one.dead_letter = letter.reason
        progress.console.print(f"  this message became a dead letter: {plain(letter.reason)}")
    if one.confirmation is None:
        stored = wire.view.confirmation(confirmation_id(one.record))
        progress.console.print("  confirmation as stored: " + json.dumps(stored, ensure_ascii=True, default=str))
    if not isinstance(one.record.request, OrderRequest):
        return
    entry = wire.view.ledger(key_of(one.record).ledger_id)
    if entry is not None:
        position = entry.position
        one.position = {
            "account_id": entry.key.account_id,
            "strategy": entry.key.strategy,
            "symbol": entry.instrument.symbol,
            "side": ("LONG" if position.is_long else "SHORT") if position.is_open else "FLAT",
            "quantity": abs(position.quantity),
            "average_price": position.average_price,
            "realized_pnl": position.realized_pnl,
        }
        average = quoted(position.average_price, one.record) if position.is_open else ""
        held = f"{one.position['side']} {quantity(abs(position.quantity))} @ {average}" if position.is_open else "flat"
        progress.console.print(
            f"  position: {plain(entry.instrument.symbol)} {held}, realised {quantity(position.realized_pnl)}"
            f" ({plain(entry.key.account_id)}, {plain(entry.key.strategy)})"
        )


def _summary(order: Order) -> str:
    words = (
        f"{order.status} {quantity(order.filled_quantity)} of {quantity(order.quantity)} {plain(order.symbol or '?')}"
    )
    if order.fills:
        words += f" @ {quoted(order.average_price, order)}"
    if order.reason is not None:
        words += plain(f": {order.reason.code}: {order.reason.message}")
    return words


def _json(one: FollowedOrder) -> Mapping[str, object]:
    return {
        "signal_id": one.parsed.identity.signal_id,
        "leg_index": one.parsed.identity.leg_index,
        "order_id": one.order_id,
        "status": one.status,
        "dead_letter": one.dead_letter,
        "confirmation": one.confirmation,
        "position": one.position,
    }


def _show_where_next(wire: _Wire, orders: Sequence[FollowedOrder], progress: _Progress) -> None:
    progress.console.print()
    progress.console.print("Next:")
    if orders:
        progress.console.print(f"  python scripts/execctl.py order {plain(orders[0].parsed.identity.signal_id)}")
    progress.console.print("  python scripts/execctl.py positions")
    progress.console.print(f"  tail -f {wire.settings.log_dir / 'signal_processing.log'}")


if __name__ == "__main__":
    sys.exit(main())
