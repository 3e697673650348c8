"""One service process with several accounts at one broker, and who plays a scenario on one of them: sends, strikes, looks, judges."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pymongo
from google.api_core.exceptions import GoogleAPIError

import brokers
from brokers.manifest import Fact
from brokers.paper.exchange import PaperExchange
from brokers.registry import manifests
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.views.record import order_from_document
from simulators import control
from simulators.catalogue import simulator_of
from simulators.simulator import Place, account_table
from tests.external.service_process import (
    COMMANDS_TOPIC,
    DATABASE,
    ORDERS_TOPIC,
    PROJECT,
    REPOSITORY,
    Confirmation,
    Listener,
    PubSub,
    Service,
    embedded_address,
    free_port,
    wide_limits,
)
from tests.external.venues import FINAL, GatewayVenue, Venue, gateway_server
from tests.faults.judgement import Evidence, Placed, disagreements, position_disagreements
from tests.waits import wait_until

PRICE = "100.25"
ENTRY = Path(__file__).resolve().parent / "watched_service.py"
LOOK_SECONDS = 0.15
PUBLISH_SECONDS = 10.0


def tells(broker: str, fact: Fact) -> bool:
    return fact in manifests()[broker].facts


class NotPublished(Exception):
    """Pub/Sub did not answer in time: its service has just died, perhaps."""


class LaneOfBook(Venue):
    """One account's view of a book that the service's own adapter keeps."""

    @property
    def path(self) -> Path:
        return self._book.path

    def __init__(self, broker: str, book: PaperExchange, account_id: str) -> None:
        self.broker = broker
        self.account_id = account_id
        self.symbol = simulator_of(broker).symbols[0]
        self._book = book

    def do(self, what: str, **wish: object) -> Mapping[str, Any]:
        if what == "fault":
            wish = {"fault": {"account_id": self.account_id, **dict(wish["fault"])}}  # type: ignore[call-overload]
        control.carry_out(control.book_commands(self._book), {"do": what, **wish})
        return {}

    def orders(self) -> list[dict[str, Any]]:
        return [control.order_as_json(order) for order in self._book.orders()]


@dataclass(frozen=True, slots=True)
class Lane:
    """One account and the broker behind it; one scenario at a time is played there."""

    account_id: str
    venue: Venue


@dataclass(slots=True)
class Signal:
    """One order of a scenario, sent or not."""

    body: dict[str, Any]
    expects: Placed
    client_order_id: str
    order_id: str

    @property
    def signal_id(self) -> str:
        return str(self.body["signal_id"])


class Stage:
    """The running service with everything around it. Safe to use from several threads."""

    def __init__(self, broker: str, service: Service, lanes: Sequence[Lane], listener: Listener, folder: Path) -> None:
        self.broker = broker
        self.service = service
        self.lanes = lanes
        self.listener = listener
        self.folder = folder
        self.pubsub_address: str | None = None
        """Where the tests find Pub/Sub, if not where the service does."""
        self.mongodb_uri: str | None = None
        self._submission = threading.Lock()
        self._looking = threading.Lock()
        self._pubsub: tuple[str, PubSub] | None = None
        self._mongo: tuple[str, pymongo.MongoClient[dict[str, Any]]] | None = None
        self._books: dict[int, tuple[float, list[dict[str, Any]]]] = {}

    @property
    def store_uri(self) -> str:
        """Raises FileNotFoundError while the service has an embedded store and is not ready."""
        return self.mongodb_uri or str(self.service.endpoints()["mongodb_uri"])

    @property
    def db(self) -> pymongo.database.Database[dict[str, Any]]:
        uri = self.store_uri
        with self._looking:
            if self._mongo is None or self._mongo[0] != uri:
                if self._mongo is not None:
                    # A client of a dead store looks for it once more before it closes, for seconds that nobody has to wait for.
                    threading.Thread(target=self._mongo[1].close, daemon=True).start()
                client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                    uri, tz_aware=True, serverSelectionTimeoutMS=5000, socketTimeoutMS=10000
                )
                self._mongo = uri, client
            return self._mongo[1][DATABASE]

    def publish(self, *bodies: Mapping[str, Any], topic: str = ORDERS_TOPIC) -> None:
        self.publish_raw([json.dumps(body).encode() for body in bodies], topic)

    def publish_raw(self, payloads: Sequence[bytes], topic: str = ORDERS_TOPIC) -> None:
        """Returns when Pub/Sub has them. Raises NotPublished, and then does not know."""
        out = self._out()
        path = out.publisher.topic_path(PROJECT, topic)
        try:
            for future in [out.publisher.publish(path, payload) for payload in payloads]:
                self._wait_for(future)
        except (GoogleAPIError, TimeoutError, ValueError) as exc:
            with self._submission:
                self._pubsub = None
            raise NotPublished from exc

    def _wait_for(self, future: Future[str]) -> None:
        """Raises TimeoutError; soon, if the service has died and its own Pub/Sub with it."""
        end = time.monotonic() + PUBLISH_SECONDS
        while True:
            try:
                future.result(LOOK_SECONDS)
                return
            except TimeoutError:
                is_gone = self.pubsub_address is None and self.service.exit_status() is not None
                if is_gone or time.monotonic() > end:
                    raise

    def _out(self) -> PubSub:
        address = self.pubsub_address or str(self.service.endpoints()["pubsub_emulator_host"])
        with self._submission:
            if self._pubsub is None or self._pubsub[0] != address:
                if self._pubsub is not None:
                    self._pubsub[1].close()
                self._pubsub = address, PubSub(address)
            return self._pubsub[1]

    def told(self, signal_ids: set[str]) -> list[Confirmation]:
        return [each for each in self.listener.received if each.attributes.get("signal_id") in signal_ids]

    def close(self) -> None:
        if self._pubsub is not None:
            self._pubsub[1].close()
        if self._mongo is not None:
            self._mongo[1].close()


class Play:
    """One run of one scenario on one lane."""

    def __init__(self, stage: Stage, lane: Lane, name: str) -> None:
        self.stage = stage
        self.lane = lane
        self.venue = lane.venue
        self.broker = stage.broker
        self.strategy = f"{name[:40]}-{uuid.uuid4().hex[:8]}"
        self.signals: list[Signal] = []
        self._combinations: dict[str, Sequence[Signal]] = {}
        """Legs of one order at the broker, by the tag that the whole bears there."""
        self.also_judged: list[Callable[[], list[str]]] = []
        """What else may disagree, each a sentence."""
        self._beside = contextlib.ExitStack()
        self.trouble_ended = time.monotonic()

    def while_it_lasts(self, beside: contextlib.AbstractContextManager[None]) -> None:
        """Entered now, and left when the play is over."""
        self._beside.enter_context(beside)

    def end(self) -> None:
        self._beside.close()

    # Sending

    def order(self, side: str = "BUY", quantity: int = 10, *, expects: Placed = Placed.ONCE, **more: Any) -> Signal:
        """An order with a signal id of its own, not sent yet: LIMIT at 100.25 for the day, unless told otherwise."""
        body = {
            "signal_id": f"f-{uuid.uuid4().hex[:16]}",
            "symbol": simulator_of(self.broker).symbols[0],
            "product": simulator_of(self.broker).product,
            "side": side,
            "order_type": "LIMIT",
            "limit_price": PRICE,
            "quantity": quantity,
            "account_id": self.lane.account_id,
            "strategy_name": self.strategy,
            "tif": "DAY",
            **simulator_of(self.broker).order_fields,
        } | more
        body = {name: value for name, value in body.items() if value is not None}
        is_exit = body.get("signal_type") in ("EXIT", "SCALE_OUT")
        identity = Identity(
            signal_id=str(body["signal_id"]),
            leg_index=int(body.get("leg_index", 0)),
            purpose=Purpose.EXIT if is_exit else Purpose.ENTRY,
        )
        signal = Signal(body, expects, identity.client_order_id(1), identity.order_id)
        self.signals.append(signal)
        return signal

    def combination(self, *legs: Mapping[str, Any], expects: Placed = Placed.ONCE, **more: Any) -> Sequence[Signal]:
        """Options that are legs of one signal, each with what it says by itself; not sent yet. Their broker takes them as one order."""
        first = self.order(**{"leg_index": 0, "total_legs": len(legs), **legs[0], **more}, expects=expects)
        same = {"signal_id": first.signal_id, "total_legs": len(legs)}
        rest = [
            self.order(**{**same, "leg_index": n, **leg, **more}, expects=expects) for n, leg in enumerate(legs[1:], 1)
        ]
        self._combinations[first.client_order_id] = [first, *rest]
        return self._combinations[first.client_order_id]

    def send(self, *signals: Signal) -> None:
        self.stage.publish(*(signal.body for signal in signals))
        self.trouble_ended = time.monotonic()

    def sent(self, **more: Any) -> Signal:
        signal = self.order(**more)
        self.send(signal)
        return signal

    def resting(self, **more: Any) -> Signal:
        """An order that the broker holds and does not fill by itself."""
        signal = self.order(**more)
        self.fault("place", "hold", signal)
        self.send(signal)
        self.until(signal, "SUBMITTED")
        return signal

    def cancel(self, signal: Signal, by: str = "signal_id") -> None:
        """`by`: the field of the order that names it."""
        command = {"command": "CANCEL", by: signal.body[by], "reason": "asked by the test"}
        self.stage.publish(command, topic=COMMANDS_TOPIC)
        self.trouble_ended = time.monotonic()

    # The broker's side

    def fault(self, operation: str, action: str, signal: Signal | None = None, **fields: Any) -> None:
        """Trouble for this order only, or for every call of the lane's broker."""
        named = {} if signal is None else {"client_order_id": signal.client_order_id}
        self.venue.fault(operation, action, **named, **fields)

    def do(self, what: str, **wish: Any) -> Mapping[str, Any]:
        answer = self.venue.do(what, **wish)
        self.trouble_ended = time.monotonic()
        return answer

    def fill(self, signal: Signal, quantity: int | None = None, price: str | None = None, **more: Any) -> None:
        self.do("fill", order=self._named(signal), quantity=quantity, price=price, **more)

    def fill_units(self, legs: Sequence[Signal], units: int) -> None:
        """So many units of a combination, each leg by what it is of one."""
        whole = math.gcd(*(int(leg.body["quantity"]) for leg in legs))
        for leg in legs:
            self.fill(leg, units * int(leg.body["quantity"]) // whole)

    def to_all(self, what: str, legs: Sequence[Signal]) -> None:
        """The exchange's doing to each leg of a combination: `cancel` or `reject`."""
        for leg in legs:
            self.do(what, order=self._named(leg))

    def _named(self, signal: Signal) -> str:
        """What the broker's control side knows it by: of a leg the book's own id, since they all bear one tag."""
        is_leg = any(signal in legs for legs in self._combinations.values())
        return str(self.at_broker(signal)[-1]["broker_order_id"]) if is_leg else signal.client_order_id

    def book(self) -> list[dict[str, Any]]:
        """The broker's orders; a leg of a combination under the tag of its own record."""
        return [order | {"client_order_id": self._tag_of(order)} for order in self.venue.orders()]

    def _tag_of(self, order: Mapping[str, Any]) -> str:
        tag = str(order["client_order_id"])
        same = [leg for leg in self._combinations.get(tag, ()) if _is_of(order, leg)]
        return same[0].client_order_id if same else tag

    def at_broker(self, signal: Signal) -> list[dict[str, Any]]:
        return [order for order in self.book() if order["client_order_id"] == signal.client_order_id]

    def is_shown(self, signal: Signal) -> bool:
        """Whether a person who looks for the order at the broker finds it."""
        hides = tells(self.stage.broker, Fact.REFUSALS_UNLISTED)
        return any(not hides or order["status"] != "REJECTED" or order["fills"] for order in self.at_broker(signal))

    def until_placed(self, signal: Signal, within: float = 40.0) -> dict[str, Any]:
        return wait_until(lambda: self.at_broker(signal), "the broker has it", within=within, pause=0.05)[0]

    def fill_ids(self, signal: Signal) -> list[str]:
        return [str(fill["fill_id"]) for fill in self.at_broker(signal)[0]["fills"] if not fill["busted"]]

    # Looking

    def record(self, signal: Signal) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.stage.db["execution_orders"].find_one({"_id": signal.order_id})
        return found

    def until(self, signal: Signal, *statuses: str, within: float = 60.0) -> None:
        wait_until(
            lambda: (self.record(signal) or {}).get("status") in (statuses or FINAL),
            f"{signal.signal_id} is {' or '.join(statuses or FINAL)}",
            within=within,
            pause=LOOK_SECONDS,
            more=lambda: (
                f"{(self.record(signal) or {}).get('status')}, last {(self.record(signal) or {}).get('events', [])[-2:]}"
            ),
        )
        self.trouble_ended = time.monotonic()

    def until_event(self, signal: Signal, event: str, within: float = 60.0) -> None:
        wait_until(
            lambda: event in [e["type"] for e in (self.record(signal) or {"events": []})["events"]],
            f"{signal.signal_id} has {event}",
            within=within,
            pause=LOOK_SECONDS,
        )
        self.trouble_ended = time.monotonic()

    def until_filled(self, signal: Signal, quantity: int, within: float = 60.0) -> None:
        """So much of it, by its record."""

        def filled() -> Decimal:
            record = self.record(signal)
            return Decimal(0) if record is None else order_from_document(record).filled_quantity

        wait_until(
            lambda: filled() == quantity, f"{quantity} of {signal.signal_id} filled", within=within, pause=LOOK_SECONDS
        )
        self.trouble_ended = time.monotonic()

    def stays(self, signal: Signal, *statuses: str, seconds: float) -> None:
        """Fails as soon as the record says anything else."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = (self.record(signal) or {}).get("status")
            assert status in statuses, f"{signal.signal_id} became {status} without evidence"
            time.sleep(LOOK_SECONDS)
        self.trouble_ended = time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)
        self.trouble_ended = time.monotonic()

    # The judgement

    def judge(self) -> list[str]:
        """What disagrees at this moment."""
        found: list[str] = []
        # Several orders may share a signal id (an entry and its exit): each is known by its own tag.
        tags = {signal.client_order_id: signal for signal in self.signals}
        records = {
            str(record["client_order_id"]): record
            for record in self.stage.db["execution_orders"].find(
                {"signal_id": {"$in": [signal.signal_id for signal in self.signals]}}
            )
        }
        views = {
            str(view["client_order_id"]): view
            for view in self.stage.db["execution_confirmations"].find({"client_order_id": {"$in": list(tags)}})
        }
        book = [order for order in self.book() if order["client_order_id"] in tags]
        told = self.stage.told({signal.signal_id for signal in self.signals})
        for tag, signal in tags.items():
            evidence = Evidence(
                broker=self.broker,
                expects=signal.expects,
                record=records.get(tag),
                view=views.get(tag),
                placed=[order for order in book if order["client_order_id"] == tag],
                told=[each for each in told if each.body["client_order_id"] == tag],
            )
            found += [f"{signal.signal_id}: {each}" for each in disagreements(evidence)]
        ledgers = list(self.stage.db["execution_positions"].find({"strategy": self.strategy}))
        shown = list(self.stage.db["positions"].find({"strategy_name": self.strategy, "status": "OPEN"}))
        protective = {
            str(record["client_order_id"])
            for record in self.stage.db["execution_orders"].find(
                {"request.strategy": self.strategy, "request.protective": {"$exists": True}}, {"client_order_id": 1}
            )
        }
        ours = book + [order for order in self.venue.orders() if order["client_order_id"] in protective]
        found += position_disagreements(ours, ledgers, shown)
        return found + [each for judge in self.also_judged for each in judge()]

    def placed(self) -> list[int]:
        """Orders at the broker for each signal."""
        book = [order["client_order_id"] for order in self.book()]
        return [book.count(signal.client_order_id) for signal in self.signals]


def _is_of(order: Mapping[str, Any], leg: Signal) -> bool:
    """Whether the broker's order is of the option that the leg names."""
    return order["strike"] == str(leg.body["strike"]) and order["right"] == leg.body["right"]


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    scenario: str
    broker: str
    wrong: list[str] = field(default_factory=list)
    placed: list[int] = field(default_factory=list)
    recovery_seconds: float = 0.0
    take_over_seconds: float = 0.0
    """Until others held what a process that died or froze had held; 0: no such thing was played."""
    doubts: int = 0
    """Orders about which a person had to decide."""
    is_run: bool = True
    """False for what is observed over many runs."""
    figures: str = ""
    """What else was measured, in words."""

    @property
    def agrees(self) -> bool:
        return not self.wrong


def run_play(play: Play, name: str, steps: Callable[[Play], None], within: float) -> Outcome:
    """Plays, then waits until all agree; what still disagrees after `within` seconds is the outcome."""
    outcome = Outcome(name, play.broker)
    try:
        steps(play)
        end = time.monotonic() + within
        while True:
            try:
                outcome.wrong = play.judge()
            except OSError as exc:
                outcome.wrong = [f"the broker's book could not be read: {exc}"]
            if not outcome.wrong or time.monotonic() > end:
                break
            time.sleep(LOOK_SECONDS)
        outcome.recovery_seconds = time.monotonic() - play.trouble_ended
        outcome.placed = play.placed()
    except Exception as exc:  # noqa: BLE001  whatever stopped the play is its outcome, and the others go on
        outcome.wrong = [f"{type(exc).__name__}: {exc}"[:1500]]
    finally:
        play.end()
    return outcome


def play_side_by_side(
    stage: Stage, wanted: Sequence[tuple[str, Callable[[Play], None], float]], done: Callable[[Outcome], None]
) -> None:
    """Each lane plays one after the other; the lanes at once."""
    waiting = iter(wanted)
    taking = threading.Lock()

    def work(lane: Lane) -> None:
        while True:
            with taking:
                wanted_next = next(waiting, None)
            if wanted_next is None:
                return
            name, steps, within = wanted_next
            done(run_play(Play(stage, lane, name), name, steps, within))

    with ThreadPoolExecutor(len(stage.lanes)) as pool:
        for future in [pool.submit(work, lane) for lane in stage.lanes]:
            future.result()


# --- setting the stage ----------------------------------------------------------------------------------------------


def accounts_file(
    broker: str, account_ids: Sequence[str], port: int, folder: Path, more: Mapping[str, object] | None = None
) -> str:
    """Every account leads to the gateway at this port; in the sequence of the accounts."""
    simulator = simulator_of(broker)
    parts = []
    for number, account_id in enumerate(account_ids, start=1):
        place = Place(address=simulator.address_at(port), folder=folder, number=number)
        keys = {"broker": broker, **simulator.test_account(place), **simulator.hasty, **(more or {})}
        parts.append(account_table(account_id, keys))
    return "\n".join(parts)


def set_gateway(stack: contextlib.ExitStack, broker: str, folder: Path) -> tuple[list[Venue], int]:
    """The broker's simulated gateway as a process, and its port; there is none where the adapter keeps the book."""
    simulator = simulator_of(broker)
    port, control_port = free_port(), free_port()
    if simulator.program is None:
        return [], port
    server, control_port = gateway_server(broker, folder, port, control_port)
    return [GatewayVenue(broker, stack.enter_context(server), control_port)], port


def keeps_its_book(broker: str) -> bool:
    """The adapter itself does, in DATA_DIR."""
    return simulator_of(broker).program is None


def lanes_of_book(stack: contextlib.ExitStack, broker: str, data_dir: Path, account_ids: Sequence[str]) -> list[Venue]:
    """Each account's view of the adapter's own book in this folder."""
    open_book = simulator_of(broker).open_book
    assert open_book is not None
    data_dir.mkdir(parents=True, exist_ok=True)
    books = [open_book(data_dir, each) for each in account_ids]
    for book in books:
        stack.callback(book.close)
    return [LaneOfBook(broker, book, account_id) for book, account_id in zip(books, account_ids, strict=True)]


def python_path() -> str:
    """For processes: the repository, and whatever adds brokers to it in this one."""
    return os.pathsep.join(dict.fromkeys([str(REPOSITORY), *(str(Path(each).parent) for each in brokers.__path__)]))


def service_settings(
    broker: str, folder: Path, account_ids: Sequence[str], port: int, more: Mapping[str, object] | None = None
) -> dict[str, str]:
    """What every service under test is told. Writes its accounts, with whatever these need, and its clock into the folder."""
    accounts = folder / "accounts.toml"
    (folder / "clock").write_text("0")
    accounts.write_text(accounts_file(broker, account_ids, port, folder, more), encoding="utf-8")
    return {
        "ACCOUNTS_FILE": str(accounts),
        "RISK_FILE": str(wide_limits(folder)),
        "USE_MOCK_BROKER": "false",
        **simulator_of(broker).environment,
        "MAX_RETRY_ATTEMPTS": "100",
        "FAULTS_HEARTBEATS": str(folder / "heartbeats"),
        "FAULTS_CLOCK": str(folder / "clock"),
        "PYTHONPATH": python_path(),
    }


@contextlib.contextmanager
def set_stage(
    broker: str,
    folder: Path,
    *,
    lanes: int,
    starts: bool = True,
    through: Callable[[int], int] | None = None,
    own_pubsub: str | None = None,
    own_store: str | None = None,
    account_keys: Mapping[str, object] | None = None,
    **settings: str,
) -> Iterator[Stage]:
    """Everything started, all of it ended afterwards. `through`: what stands between the service and the gateway, by its port.
    `account_keys`: what else each account's table says.
    `own_pubsub`, `own_store`: where the tests find those that they started themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    account_ids = [f"{broker}_{number}" for number in range(1, lanes + 1)]
    with contextlib.ExitStack() as stack:
        venues, port = set_gateway(stack, broker, folder)
        if through is not None and venues:
            port = through(port)
        chosen = service_settings(broker, folder, account_ids, port, account_keys)
        service = stack.enter_context(Service(folder, program=ENTRY, **(chosen | settings)))
        listener = stack.enter_context(Listener((lambda: own_pubsub) if own_pubsub else embedded_address(service)))
        if starts:
            service.start()
        if keeps_its_book(broker):
            venues = lanes_of_book(stack, broker, service.data_dir, account_ids)
        pairs = zip(account_ids, itertools.cycle(venues), strict=False)
        stage = Stage(broker, service, [Lane(account_id, venue) for account_id, venue in pairs], listener, folder)
        stage.pubsub_address, stage.mongodb_uri = own_pubsub, own_store
        stack.callback(stage.close)
        yield stage


def loop_outcome(broker: str, name: str, folder: Path) -> Outcome:
    """How long the event loops of all services that ran under the folder were held up, each since it began to take orders: in all, which is
    also other programs' doing and that of a freeze, and by their own work, which alone is judged."""
    told = [json.loads(path.read_text())["after"] for path in folder.rglob("heartbeats/*.json")]
    by_work = sum(int(figures["work_over_100_ms"]) for figures in told)
    longest = max((float(figures["longest_ms"]) for figures in told), default=0.0)
    own = max((float(figures["longest_work_ms"]) for figures in told), default=0.0)
    loop = Outcome(name, broker, is_run=False)
    loop.figures = (
        f"pauses over 100 ms: {sum(int(figures['over_100_ms']) for figures in told)}, by its own work {by_work}; longest "
        f"{longest / 1000:.2f} s, by its own work {own / 1000:.2f} s"
    )
    if not any(figures["beats"] for figures in told):
        loop.wrong = ["no service told of its event loop"]
    if by_work:
        loop.wrong = [f"its own work held the event loop up for over 100 ms, {by_work} times, {own:.0f} ms at most"]
    return loop


def said(outcomes: Sequence[Outcome]) -> str:
    """What disagreed, a line each; empty if nothing did."""
    return "\n".join(f"{each.scenario} at {each.broker}: {'; '.join(each.wrong)}" for each in outcomes if each.wrong)
