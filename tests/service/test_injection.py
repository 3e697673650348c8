"""Words that would like to be markup, lines or commands: what they become in logs, alerts and confirmations on the whole way of an order."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path

import pytest

from brokers.errors import BrokerUnavailable, OrderRefused
from brokers.paper.model import Action, Fault, Operation
from execution_service.app.log import JOURNEY_LOG, SERVICE_LOG, start_logging
from execution_service.core.orders.status import Status
from notifications.telegram import LONGEST_TEXT, cut_html
from simulators.telegram import read_html
from tests.fakes import ACCOUNT, world_of

FORGED = "2024-11-24 10:30:10 | [EXECUTION] | Order filled: 100 @ $1.00"
HOSTILE = (
    f"no\r\n{FORGED}\n\x1b[2J\x1b]0;owned\x07\x9b31m\u202eLPAA\u2066\u200b\ufeff\x00\u2028{FORGED}\u2029\x85"
    "<b>bold</b><script>x</script></b>&amp;&lt; [bold red]x[/] %s {0} \ud800 " + "<" * 3000
)
STORABLE = HOSTILE.replace("\ud800", "")
"""What the mock broker's book can hold; half a character comes by an adapter's error."""
NAMES = ("<b>x</b>", "[red]x[/red]", "</code>&lt;", "%s{0}", "שלום", "a'b\"c\\n", "=cmd|' /C'", "../..", "$where")
DANGEROUS_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| \[EXECUTION\] \| .+|    \| .*")


def dangerous(text: str, *, besides: str = "") -> set[str]:
    return {repr(c) for c in text if unicodedata.category(c) in DANGEROUS_CATEGORIES and c not in besides}


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_hostile_words_stay_words(tmp_path: Path, log_format: str) -> None:
    console = io.StringIO()
    faults = (
        Fault(operation=Operation.PLACE, action=Action.REJECT, symbol="REJECT", reason=STORABLE),
        Fault(operation=Operation.PLACE, action=Action.UNAVAILABLE, symbol="AWAY", reason=STORABLE, times=None),
    )
    async with world_of(tmp_path, faults=faults) as world:
        logging = start_logging(tmp_path / "logs", "DEBUG", log_format, stream=console)
        try:
            for number, name in enumerate(NAMES):
                world.send(f"{name}-{number}", strategy_name=name)
            for symbol in ("REJECT", "AWAY"):
                world.send(symbol.lower(), symbol=symbol)
            await world.run(1.0)
            world.broker_faults.errors["place_order"] = [OrderRefused(HOSTILE)]
            world.send("refuse", symbol="REFUSE")
            world.send("unreadable", symbol=HOSTILE, strategy_name=HOSTILE, quantity=HOSTILE, account_id=HOSTILE)
            world.send_raw(HOSTILE.encode("utf-8", "surrogatepass"))
            world.cancel(order_id="nobody", reason=HOSTILE)
            world.cancel(order_id=HOSTILE, reason=HOSTILE)
            world.commands.publish(json.dumps({"command": HOSTILE, "order_id": "x"}).encode(), world.clock.now())
            await world.run(30.0)
            world.broker_faults.unavailable = BrokerUnavailable(HOSTILE)
            world.send("down")
            await world.run(90.0)
            for number, name in enumerate(NAMES):
                assert world.record(f"{name}-{number}").status is Status.FILLED
            for symbol in ("reject", "refuse", "away", "unreadable"):
                assert world.record(symbol).status is Status.REJECTED
            texts, published = list(world.notifier.texts), list(world.publisher.of("reject"))
            published += [body for r in world.records() for body in world.publisher.of(r.signal_id)]
        finally:
            logging.stop()

    written = console.getvalue()
    for path in (tmp_path / "logs" / SERVICE_LOG, tmp_path / "logs" / JOURNEY_LOG):
        assert path.stat().st_mode & 0o077 == 0
        written += path.read_text(encoding="utf-8")
    assert not dangerous(written, besides="\n")
    for line in written.splitlines():
        if log_format == "json":
            assert isinstance(json.loads(line), dict)
        else:
            assert LINE.fullmatch(line), line
            assert not line.startswith(FORGED)

    assert len(texts) > len(NAMES)
    for text in texts:
        assert not dangerous(text, besides="\n\ufe0f\u200d"), text
        cut = cut_html(text)
        assert len(cut.encode("utf-16-le")) // 2 <= LONGEST_TEXT
        read_html(cut)  # as Telegram would
        assert "<b>" not in text
        assert "<script" not in text
        assert FORGED not in text.splitlines()

    assert {body["signal_id"] for body in published} >= {"reject", "refuse", "away", "unreadable", "down"}
    for body in published:
        again = json.dumps(body, allow_nan=False)
        assert "\n" not in again
        assert json.loads(again) == body


async def test_account_names_of_a_file_are_words_too(tmp_path: Path) -> None:
    hostile_account = "<i>acc</i>&[b]"
    async with world_of(tmp_path, accounts=(ACCOUNT, hostile_account)) as world:
        world.send("sig", account_id=hostile_account, symbol="AAPL")
        await world.run(2.0)
        assert world.record("sig").status is Status.FILLED
        for text in world.notifier.texts:
            assert "<i>" not in text
            read_html(text)
