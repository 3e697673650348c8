"""The service with a meter at its risk gates: on SIGUSR1 it writes to the file BENCH_JUDGED what they have cost so far."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from execution_service import execution_main
from execution_service.trading.risk_gate import RiskGate

VARIABLE = "BENCH_JUDGED"
JUDGES = "judge"
"""Called once for each order that is to leave."""
_COROUTINES = (JUDGES, "stops", "waits_for_quote", "keep_book")
_FUNCTIONS = ("take", "note_record", "booked", "not_leaving")


class Meter:
    """How often orders were judged, and the processor time of all that their gates did on the event loop, in seconds."""

    def __init__(self) -> None:
        self.judged = 0
        self.seconds = 0.0

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"judged": self.judged, "seconds": self.seconds}), encoding="utf-8")
        beside.replace(path)

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return measured

    def awaited(self, name: str, work: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        async def measured(*args: Any, **kwargs: Any) -> Any:
            self.judged += name == JUDGES
            return await _Steps(self, work(*args, **kwargs))

        return measured


class _Steps:
    """A coroutine, timed from each time that it goes on until it waits again: what others do meanwhile is not its cost."""

    def __init__(self, meter: Meter, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._meter = meter
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731
        while True:
            try:
                waits_for = self._meter.timed(go_on)()
            except StopIteration as end:
                return end.value
            try:
                told = yield waits_for
            except BaseException as exc:  # noqa: BLE001  it is the coroutine's, as its own waiting would raise it
                error = exc
                go_on = lambda: self._coroutine.throw(error)  # noqa: B023, E731
            else:
                go_on = lambda: self._coroutine.send(told)  # noqa: B023, E731


def main() -> int:
    meter = Meter()
    for name in _COROUTINES:
        setattr(RiskGate, name, meter.awaited(name, getattr(RiskGate, name)))
    for name in _FUNCTIONS:
        setattr(RiskGate, name, meter.timed(getattr(RiskGate, name)))
    path = Path(os.environ[VARIABLE])
    signal.signal(signal.SIGUSR1, lambda *_: meter.write(path))
    return execution_main.main()


if __name__ == "__main__":
    sys.exit(main())
