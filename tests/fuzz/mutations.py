"""Makes hostile messages out of good ones, by a seeded generator of luck; what becomes of them is judged by `oracle`."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLES_FOLDER = Path(__file__).resolve().parent.parent / "signals_testing"

_PLAIN: dict[str, Any] = {
    "signal_id": "sig_1",
    "account_id": "acc_one",
    "strategy_name": "Trend",
    "symbol": "AAPL",
    "side": "BUY",
    "quantity": 100,
    "order_type": "MARKET",
}
COMMANDS: tuple[dict[str, Any], ...] = (
    {"command": "CANCEL", "order_id": "sig_1_ORD", "reason": "changed my mind", "timestamp": "2025-03-03T15:00:00"},
    {"command": "CANCEL", "signal_id": "sig_1", "leg_index": 1, "reason": "x"},
    {"command": "MODIFY", "order_id": "sig_1_ORD", "quantity": 5},
)
_WORD_LIST = (
    "BUY SELL ENTRY EXIT LONG SHORT SCALE_IN SCALE_OUT MARKET LIMIT STOP STOP_LIMIT STOCK FOREX FUTURE OPTION CRYPTO STK OPT DAY GTC IOC "
    "MIS NRML CNC CALL PUT C P AUDCAD AUD/CAD SPY 20251219 202512 20250230 USD regular CANCEL MODIFY buy Sell stop-limit"
)
_TEXTS = (
    "", " ", "\u00a0", "AAPL\n2024 | [EXECUTION] | Order filled", "\x1b[31mred\x1b[0m", "\u202eLPAA", "a\u200bb", "\ufeffAAPL", "\ud800",
    "\x00", "<b>bold</b>", "[bold]x[/]", "AAPL' OR 1=1", "$ne", "{now}", "..", "../../etc/passwd", "%s%n", "\u0661\u0662\u0663", "\uff11\uff12",
    "NaN", "Infinity", "1e5", " 7 ", "+5", "0x10", "1_000", "1,000", "１００", "İ", "ß", "ﬁ", "x" * 257, "S" * 33, "true", "null",
)  # fmt: skip
_NUMBERS = (
    "0", "-0", "-1", "1", "0.1", "100.0", "1e2", "1E+2", "1e-18", "1e-19", "1e400", "1e-400", "1e999999999999", "-1e5", "0.1e1",
    "123456789012345678", "1234567890123456789", "99999999999999999999999999", "0.30000000000000004", "1" * 5000, "NaN", "Infinity",
    "-Infinity", "00", "01", "1.", ".5", "--1", "1e", "0e0", "0.000",
)  # fmt: skip
_FIELD_LIST = (
    "signal_id leg_index total_legs order_id symbol instrument instrument_type secType side action direction signal_type account_id account "
    "strategy_name strategy_id order_type quantity price limit_price stop_price stop_loss take_profit tif timeout_seconds exchange currency "
    "product variety expiry lastTradeDateOrContractMonth strike right multiplier underlying legs entry_signal_id entry_signal_ref "
    "mathematricks_signal_id command reason timestamp"
)

_WORDS, FIELD_NAMES = _WORD_LIST.split(), _FIELD_LIST.split()


def texts() -> tuple[str, ...]:
    """Words that would like to be something else."""
    return _TEXTS


class Literal(str):
    """Stands in the JSON text as it is, without quotes."""

    __slots__ = ()


def sample_messages() -> list[dict[str, Any]]:
    """The repository's own samples, in both dialects, and one of each kind that they lack."""
    found = [_PLAIN]
    for path in sorted(SAMPLES_FOLDER.glob("*.json")):
        sample = json.loads(path.read_text(encoding="utf-8").replace("{december}", "202712"))
        found += sample if isinstance(sample, list) else [sample]
    option = {"instrument_type": "OPTION", "expiry": "20251219", "strike": 240, "right": "C", "multiplier": 100}
    found += [
        _PLAIN | option,
        _PLAIN | {"order_type": "STOP_LIMIT", "stop_price": "99.5", "limit_price": 99.25, "tif": "GTC"},
        _PLAIN | {"symbol": "AUD/CAD", "instrument_type": "CASH", "timeout_seconds": 0, "product": "MIS"},
    ]
    return [message for message in found if isinstance(message, dict) and "signal_id" in message]


def text_of(value: Any) -> str:
    """JSON text, literals as they are, lone surrogates in their escaped form."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k))}:{text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return json.dumps(value)


class Mutator:
    """`message` gives one hostile message after another, the same ones for the same seed."""

    def __init__(self, seed: int, samples: list[dict[str, Any]] | None = None) -> None:
        self._luck = random.Random(seed)
        self._samples = samples or sample_messages()
        self._shapes: tuple[Callable[[dict[str, Any]], None], ...] = (
            self._drop,
            self._replace,
            self._replace,
            self._replace,
            self._swap,
            self._graft,
            self._nest,
        )

    def message(self) -> bytes:
        luck = self._luck
        fields = dict(luck.choice(self._samples))
        for _ in range(luck.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            luck.choice(self._shapes)(fields)
        text = text_of(fields)
        if luck.random() < 0.06:
            text = self._repeated_name(text)
        data = text.encode("utf-8", "surrogatepass")
        return self._unreadable(data) if luck.random() < 0.25 else data

    def value(self) -> Any:
        luck = self._luck
        match luck.randrange(8):
            case 0 | 1:
                return Literal(luck.choice(_NUMBERS))
            case 2:
                return luck.choice(_TEXTS)
            case 3:
                return luck.choice(_WORDS)
            case 4:
                return luck.choice(_NUMBERS)
            case 5:
                return luck.choice((None, True, False, [], {}, [None], {"$gt": ""}))
            case 6:
                return round(luck.uniform(-5, 500), luck.randrange(6))
        return "".join(
            chr(luck.choice((luck.randrange(128), luck.randrange(0x3000)))) for _ in range(luck.randrange(12))
        )

    # Changes of the fields

    def _drop(self, fields: dict[str, Any]) -> None:
        if fields:
            del fields[self._luck.choice(list(fields))]

    def _replace(self, fields: dict[str, Any]) -> None:
        known = list(fields) if fields and self._luck.random() < 0.6 else list(FIELD_NAMES)
        fields[self._luck.choice(known)] = self.value()

    def _swap(self, fields: dict[str, Any]) -> None:
        if len(fields) >= 2:
            one, other = self._luck.sample(list(fields), 2)
            fields[one], fields[other] = fields[other], fields[one]

    def _graft(self, fields: dict[str, Any]) -> None:
        """A field of another message, so that dialects mix and contradict each other."""
        other = self._luck.choice(self._samples)
        name = self._luck.choice(list(other))
        fields[name] = other[name]

    def _nest(self, fields: dict[str, Any]) -> None:
        depth = self._luck.choice((2, 99, 100, 101, 3000))
        fields[self._luck.choice(("cerebro_decision", "quantity", "symbol"))] = Literal("[" * depth + "]" * depth)

    # Changes of the text and the bytes

    def _repeated_name(self, text: str) -> str:
        if not text.startswith("{") or len(text) < 3:
            return text
        extra = f"{json.dumps(self._luck.choice(FIELD_NAMES))}:{text_of(self.value())}"
        return f"{{{extra},{text[1:]}"

    def _unreadable(self, data: bytes) -> bytes:
        luck = self._luck
        match luck.randrange(9):
            case 0:
                return gzip.compress(data, mtime=0)
            case 1:
                return b"\xef\xbb\xbf" + data
            case 2:
                return data.decode("utf-8", "replace").encode(luck.choice(("utf-16", "utf-32", "latin-1")), "replace")
            case 3:
                return data[: luck.randrange(len(data) + 1)]
            case 4:
                return data + luck.choice((b" ", b"\n", b"\x00", b"{}", data))
            case 5:
                at = luck.randrange(len(data) + 1)
                return data[:at] + bytes(luck.randrange(256) for _ in range(luck.randrange(1, 5))) + data[at:]
            case 6:
                return b"[" + data + b"]"
        whole = bytearray(data or b"{}")
        for _ in range(luck.randrange(1, 4)):
            whole[luck.randrange(len(whole))] = luck.randrange(256)
        return bytes(whole)
