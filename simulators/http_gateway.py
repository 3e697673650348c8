"""What the simulated brokers with an HTTP API share: a server over a paper exchange, the calls it has had, faults on the way, a feed
of changes, the control side, and the program around it. No particular API."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from starlette.responses import Response
from starlette.websockets import WebSocket

from brokers.errors import BrokerUnavailable
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from simulators import control
from simulators.fault_plan import PlannedBook
from simulators.http_faults import HttpFault, HttpFaults, Wire
from simulators.listener import Listener
from simulators.loopback_http import Dropped, HttpCall, LoopbackServer, Trickled

_LOOK_SECONDS = 0.01
_ANSWER_FIRST_SECONDS = 0.2
_CALLS_REMEMBERED = 100_000


class ApiCall(Protocol):
    """One request, as an API has parsed it."""

    @property
    def route(self) -> str:
        """`METHOD /path`."""

    @property
    def at(self) -> float:
        """In monotonic seconds."""


C = TypeVar("C", bound=ApiCall)
A = TypeVar("A")
"""What an API's calls are carried out to: an answer, or what one is made of."""


class HttpGateway(ABC, Generic[C, A]):
    """A server, in threads of its own: `with Gateway(path) as gateway: ...`. A broker's own makes the book, parses calls, carries them
    out and words its refusals.

    Raises ValueError for a host other than loopback, OSError for a port in use; port 0 takes any free one.
    """

    thread_name: ClassVar[str]
    fault_type: ClassVar[type[HttpFault]]
    refused: ClassVar[type[Exception]]
    """What `_carry_out` raises for a refusal."""
    placings: ClassVar[tuple[str, ...]]
    """The routes of calls that place, as shell patterns; likewise those that cancel."""
    cancels: ClassVar[tuple[str, ...]]
    exchange: ClassVar[str | None] = None
    """Of shares that a command names by symbol only."""
    book: PlannedBook

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._server = self._new_server(port)
        self.port = self._server.port
        """Stays the same over restarts."""
        self._too_many = 0
        self._calls: deque[C] = deque(maxlen=_CALLS_REMEMBERED)
        self._faults = HttpFaults()
        self._distortions: list[tuple[str, str, Mapping[str, Any]]] = []
        self._listeners: set[Listener] = set()
        self._lock = threading.RLock()
        self.stopping = threading.Event()
        self._wake_up = threading.Event()
        self._timers: list[threading.Timer] = []
        self._serving = threading.Lock()
        self._feeding: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What a broker's own has to say

    @abstractmethod
    def _answer(self, http_call: HttpCall) -> Response:
        """The answer to one call of the API."""

    @abstractmethod
    def _refuse(self, status: int, words: str) -> Response:
        """An error answer of the server itself, in the API's form."""

    @abstractmethod
    def _carry_out(self, call: C) -> A:
        """What the API answers. Raises `refused` or BrokerUnavailable."""

    @abstractmethod
    def _concerned(self, call: C) -> tuple[tuple[Operation, ...], str, str]:
        """Which operations of the book the call is, with the order's tag and symbol if it is about one."""

    @abstractmethod
    def _fail(self, fault: Any, call: C) -> A:
        """Plays a fault of the API's own kinds: answers, or raises `refused`."""

    @abstractmethod
    def _truncated(self, answer: A) -> A:
        """The first half of the answer, as if it were complete."""

    @abstractmethod
    def _refusal_of(self, fault: Fault, *, is_order: bool) -> Exception:
        """How the API words a refusal of the book, or that it is not available: of an order it then has to be certain that it was not
        carried out."""

    @abstractmethod
    def _frames_of(self, order: PaperOrder) -> Iterable[str | bytes]:
        """What the feed says when the order has changed."""

    @abstractmethod
    async def _serve_feed(self, websocket: WebSocket) -> None:
        """Serves one listener until it disconnects or is dropped."""

    def _is_too_often(self, call: C) -> bool:
        """Whether the calls before it leave no room for it."""
        return False

    def _too_often(self) -> Exception:
        raise AssertionError("there is no limit")

    def _beat(self, listeners: Sequence[Listener]) -> None:
        """Called all the time while the feed runs."""

    def _own_commands(self) -> Mapping[str, control.Command]:
        return {}

    def _own_state(self) -> Mapping[str, Any]:
        return {}

    # For tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def listeners(self) -> int:
        """The number of listeners on the feed."""
        with self._lock:
            return len(self._listeners)

    def calls(self, route: str = "*") -> list[C]:
        """The calls whose `METHOD /path` matches the shell pattern, oldest first, including failed ones."""
        with self._lock:
            return [call for call in self._calls if fnmatchcase(call.route, route)]

    def add_fault(self, *faults: HttpFault) -> None:
        self._faults.add(*faults)

    def clear_faults(self) -> None:
        """The HTTP faults; the book's faults are kept."""
        self._faults.clear()
        with self._lock:
            self._distortions.clear()

    def show_oddly(self, route: str, order: str, fields: Mapping[str, Any]) -> None:
        """In the answers of this route, rows of this order or position get these fields instead of their own."""
        with self._lock:
            self._distortions.append((route, str(order), fields))

    def drop_feed(self) -> None:
        """Disconnects every listener."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.drop()

    def mute_feed(self, muted: bool = True) -> None:
        """Connected listeners get nothing any more, not even answers to pings, and stay connected."""
        with self._lock:
            for listener in self._listeners:
                listener.mute(muted)

    def push(self, frame: str | bytes) -> None:
        """Sends a frame to every listener."""
        with self._lock:
            for listener in self._listeners:
                listener.send(frame)

    # Life

    def start(self) -> None:
        self._server.begin(self.thread_name)
        self._feeding = threading.Thread(target=self._feed, name=f"{self.thread_name}-feed", daemon=True)
        self._feeding.start()

    def stop(self) -> None:
        """Ends every open call and every listener. Idempotent."""
        self.stopping.set()
        self._wake_up.set()
        for timer in self._timers:
            timer.cancel()
        with self._serving:
            self._server.end()
        if self._feeding is not None:
            self._feeding.join()
            self._feeding = None
        self.book.close()

    def restart(self, closed_seconds: float = 0.0) -> None:
        """Cuts every call and listener, and closes the port for so long; the book is kept."""
        with self._serving:
            if self.stopping.is_set():
                return
            self._server.end()
            self.stopping.wait(closed_seconds)
            if not self.stopping.is_set():
                self._server = self._new_server(self.port)
                self._server.begin(self.thread_name)

    def _new_server(self, port: int) -> LoopbackServer:
        return LoopbackServer(self._host, port, self._answered, self._refuse, self._serve_feed)

    # Calls

    def _answered(self, http_call: HttpCall) -> Response:
        if http_call.path.startswith(control.PATH):
            return control.answer_control(http_call, self)
        return self._answer(http_call)

    def answer(self, call: C) -> A:
        """What is answered to one call. Raises `refused`, or Dropped if no answer is to be given."""
        with self._lock:
            is_too_often = self._is_too_often(call)
            self._calls.append(call)
        if is_too_often:
            self._too_many += 1
            raise self._too_often()
        fault = self._faults.draw(call.route)
        return self._after_book_faults(call) if fault is None else self._faulty(fault, call)

    def _faulty(self, fault: HttpFault, call: C) -> A:
        if fault.accepted and not fault.late_seconds:
            with contextlib.suppress(self.refused):
                self._carry_out(call)
        elif fault.accepted:
            self._later(fault.late_seconds, lambda: self._carry_out_late(call))
        match fault.kind.value:
            case Wire.SLOW:
                self._server.stopping.wait(fault.seconds)
                return self._after_book_faults(call)
            case Wire.NEVER_ANSWER:
                self._server.stopping.wait()
                raise Dropped
            case Wire.DROP:
                raise Dropped
            case Wire.TRICKLE:
                raise Trickled
            case Wire.TRUNCATED:
                return self._truncated(self._carry_out(call))
        return self._fail(fault, call)

    def _after_book_faults(self, call: C) -> A:
        """Carries out the book's faults on the way to it, then the call."""
        operations, tag, symbol = self._concerned(call)
        faults = [fault for operation in operations for fault in self.book.draw(operation, tag, symbol)]
        for fault in faults:
            if fault.action in (Action.REFUSE, Action.UNAVAILABLE):
                raise self._refusal_of(fault, is_order=bool({Operation.PLACE, Operation.CANCEL} & set(operations)))
            if fault.action is Action.SLOW:
                if fault.accepted:
                    answer = self._carry_out(call)
                    self._server.stopping.wait(fault.seconds)
                    return answer
                self._server.stopping.wait(fault.seconds)
                continue
            if fault.action is not Action.DROP_BEFORE_ACCEPT and fault.accepted:
                self._carry_out(call)
            if fault.action is Action.NEVER_ANSWER:
                self._server.stopping.wait()
            raise Dropped
        return self._carry_out(call)

    def _carry_out_late(self, call: C) -> None:
        with contextlib.suppress(self.refused, BrokerUnavailable):
            self._carry_out(call)

    def _calls_within(self, seconds: float, now: float) -> Iterable[C]:
        """The latest first."""
        for earlier in reversed(self._calls):
            if now - earlier.at >= seconds:
                return
            yield earlier

    def _distorted_fields(self, route: str, *names: str) -> dict[str, Any]:
        with self._lock:
            wanted = [fields for where, name, fields in self._distortions if where == route and name in names]
        return {key: value for fields in wanted for key, value in fields.items()}

    # The feed

    def _feed(self) -> None:
        mark = self.book.mark()
        while not self.stopping.is_set():
            self._wake_up.wait(_LOOK_SECONDS)
            self._wake_up.clear()
            if self.stopping.is_set():
                return
            try:
                self.book.advance()
                changed = self.book.changed_since(mark)
            except BrokerUnavailable:
                # If the book is busy, it is read again in a moment.
                continue
            mark = changed[-1].change if changed else mark
            with self._lock:
                listeners = tuple(self._listeners)
            for order in changed if listeners else ():
                for frame in self._frames_of(order):
                    for listener in listeners:
                        listener.send(frame)
            self._beat(listeners)

    async def _serve_listener(
        self, websocket: WebSocket, on_message: Callable[[str | bytes], None] = lambda frame: None
    ) -> None:
        """Of a listener that is already accepted: it gets everything."""
        listener = Listener(websocket)
        with self._lock:
            self._listeners.add(listener)
        try:
            await listener.serve(on_message)
        finally:
            with self._lock:
                self._listeners.discard(listener)

    # The operator's side

    def state(self) -> dict[str, Any]:
        """The answer to `GET /_control`."""
        with self._lock:
            return {
                "calls": len(self._calls),
                "placings": sum(len(self.calls(route)) for route in self.placings),
                "cancels": sum(len(self.calls(route)) for route in self.cancels),
                "too_many": self._too_many,
                "listeners": len(self._listeners),
                "faults": self._faults.as_json(),
                "book_faults": [
                    asdict(fault) for operation in Operation for fault in self.book.armed_faults(operation)
                ],
                "fault_plan": control.plan_state(self.book),
                "orders": len(self.book.orders()),
                **self._own_state(),
            }

    def book_orders(self) -> list[dict[str, Any]]:
        """The answer to `GET /_control/orders`."""
        return [control.order_as_json(order) for order in self.book.orders()]

    def control(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out a `POST /_control`; returns the state after it, with whatever the command created. Raises one
        of control.BAD_REQUEST."""
        commands: dict[str, control.Command] = {
            **control.book_commands(self.book, self.exchange),
            "http_fault": lambda fault: self.add_fault(self.fault_type.from_json(fault)),
            "clear_faults": self._clear_all_faults,
            "show_oddly": self.show_oddly,
            "drop": self._restart_soon,
            "restart": self._restart_soon,
            "drop_feed": self.drop_feed,
            "mute_feed": lambda muted=True: self.mute_feed(bool(muted)),
            **self._own_commands(),
        }
        made = control.carry_out(commands, command)
        return self.state() | (made if isinstance(made, dict) else {})

    def _clear_all_faults(self) -> None:
        self.clear_faults()
        self.book.clear_faults()

    def _restart_soon(self, closed_seconds: float = 0.0) -> None:
        """In another thread, so that the call that requests it is answered first."""
        self._later(_ANSWER_FIRST_SECONDS, lambda: self.restart(float(closed_seconds)))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()


G = TypeVar("G", bound=HttpGateway[Any, Any])


@contextlib.asynccontextmanager
async def serving(gateway: G) -> AsyncIterator[G]:
    """The gateway while it serves in this process."""
    gateway.start()
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.stop)


def run_program(
    argv: Sequence[str] | None,
    *,
    name: str,
    title: str,
    port: int,
    account: str,
    make: Callable[[argparse.Namespace, Market], G],
    settings: Callable[[G], Mapping[str, str]],
    limits: Mapping[str, str],
) -> int:
    """The gateway as a program, until SIGINT or SIGTERM. `settings`: environment variables with which the service reaches it; `limits`:
    further options that are whole numbers, by their name, with what they limit. Returns its exit status: 1 if it cannot serve there."""
    parser = argparse.ArgumentParser(
        prog=f"python -m simulators.{name}", description=f"{title} on loopback over a paper exchange."
    )
    parser.add_argument("--port", type=int, default=port, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="the file of the book; made if there is none")
    parser.add_argument("--notice", type=Path, help="a file to say in, while it runs, where it is to be found")
    parser.add_argument("--account", default=account, help="the account's id (default: %(default)s)")
    parser.add_argument("--fill-delay-seconds", type=float, default=0.0)
    parser.add_argument("--partial-fill-rate", type=float, default=0.0)
    parser.add_argument("--rejection-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    for option, words in limits.items():
        parser.add_argument(option, type=int, help=f"{words}: more are answered with 429 (default: no limit)")
    control.add_fault_plan_option(parser)
    chosen = parser.parse_args(argv)
    market = Market(
        fill_delay_seconds=chosen.fill_delay_seconds,
        partial_fill_rate=chosen.partial_fill_rate,
        rejection_rate=chosen.rejection_rate,
        seed=chosen.seed,
    )
    try:
        gateway = make(chosen, market)
    except (OSError, OverflowError, BrokerUnavailable) as exc:
        print(f"Cannot serve on 127.0.0.1:{chosen.port}: {exc}", file=sys.stderr)
        return 1
    gateway.book.fault_plan = chosen.faults
    stop_asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_asked.set())
    with gateway:
        shown = "".join(f"  {variable}={value}\n" for variable, value in settings(gateway).items())
        print(f"{title} on {gateway.url}; Ctrl-C ends it. Settings for the service:\n{shown}", flush=True)
        if chosen.notice is not None:
            control.leave_notice(chosen.notice, gateway=gateway.url, control=gateway.url + control.PATH)
        stop_asked.wait()
        if chosen.notice is not None:
            control.take_back_notice(chosen.notice)
    return 0
