"""Orders that were sent to a gateway and not acknowledged: which messages came on their ids, and when those amount to a
refusal. No socket, no clock.

IBKR answers an order with an openOrder and statuses, and may also send errors on its id. Some orders it answers only
with an error, of any code: these orders exist nowhere, now or later (vnpy_ib issue 17,
Lean.Brokerages.InteractiveBrokers pull request 245). But errors are also sent about working orders, even before they
are acknowledged. So neither a message nor silence proves anything alone. A message on an unacknowledged id, and
complete readings of all lists without the order, begun when an acknowledgement would long have come, are taken as the
refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from brokers.base import Report, ReportStatus
from brokers.ibkr import codes
from brokers.ibkr.blotter import Hold

LOOKS = 2
"""How many complete readings without the order are required, all begun after the message."""
SILENCE_SECONDS = 2.0
"""The last of these readings begins at least so long after the message. A gateway acknowledges an order within
fractions of a second."""
LONG_SILENCE_SECONDS = 7.0
"""The same if all messages are informational (which come for working orders), report trouble (which says nothing),
or say that an order with this id exists (which must then be another). Well below the find window, after which the
order would be in doubt."""
_WORDS_KEPT = 5
_LONGEST = 500
_REMARKS = frozenset({codes.Meaning.INFORMATION, codes.Meaning.TROUBLE})
_VAGUE = frozenset({*_REMARKS, codes.Meaning.EXISTS})


@dataclass(frozen=True, slots=True)
class EarlierMessages:
    """The messages on an order's id from before it was acknowledged."""

    words: str
    """Empty: only informational ones."""
    is_rejection: bool
    """They reject the order if it is shown as inactive."""
    hold: Hold | None
    """It is held for the opening."""


@dataclass(slots=True)
class _Sent:
    """One order. `message_at` and `looked_at` are by the caller's clock."""

    client_order_id: str
    broker_order_id: str
    is_repetition: bool
    sent_at: float
    words: dict[str, codes.Meaning] = field(default_factory=dict)
    is_rejected: bool = False
    hold: Hold | None = None
    message_at: float = 0.0
    looks: int = 0
    looked_at: float = 0.0

    @property
    def is_refused(self) -> bool:
        silence = LONG_SILENCE_SECONDS if _VAGUE.issuperset(self.words.values()) else SILENCE_SECONDS
        return bool(self.words) and self.looks >= LOOKS and self.looked_at - self.message_at >= silence


class Unacknowledged:
    """By our tag. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}
        self._tags: dict[str, str] = {}
        """By the broker's id."""

    def sent(self, client_order_id: str, broker_order_id: str, *, is_repetition: bool, now: float) -> None:
        """The order is sent now. `is_repetition`: it may have been sent before, so messages on this sending say
        nothing about that one."""
        self.forget(client_order_id)
        self.forget(self.tag_of(broker_order_id))  # a gateway may restart its ids
        self._sent[client_order_id] = _Sent(client_order_id, broker_order_id, is_repetition, now)
        self._tags[broker_order_id] = client_order_id

    def forget(self, client_order_id: str) -> None:
        """The order was certainly not taken."""
        self._forgotten(client_order_id)

    def _forgotten(self, client_order_id: str) -> _Sent | None:
        sent = self._sent.pop(client_order_id, None)
        if sent is not None:
            del self._tags[sent.broker_order_id]
        return sent

    def acknowledged(self, client_order_id: str) -> EarlierMessages | None:
        """The gateway has shown the order. Returns the earlier messages on its id, if they matter now."""
        sent = self._forgotten(client_order_id)
        words = [] if sent is None else [said for said, meaning in sent.words.items() if meaning not in _REMARKS]
        if sent is None or not (words or sent.hold):
            return None
        return EarlierMessages("; ".join(words), sent.is_rejected, sent.hold)

    def forget_before(self, moment: float) -> None:
        """Drops orders sent earlier: they are of another day."""
        for tag in [tag for tag, each in self._sent.items() if each.sent_at < moment]:
            self.forget(tag)

    def tag_of(self, broker_order_id: str) -> str:
        """Empty: no such order."""
        return self._tags.get(broker_order_id, "")

    def said(self, broker_order_id: str, code: int, text: str, now: float, *, hold: Hold | None = None) -> None:
        """A message on an order's id. "Nothing was taken" is not counted as one. `hold`: the message says that the
        order is held for the opening, which is said only once."""
        sent = self._sent.get(self.tag_of(broker_order_id))
        if sent is not None:
            sent.hold = hold or sent.hold
        meaning = codes.meaning_for_order(code)
        if sent is None or meaning is codes.Meaning.NOT_TAKEN:
            return
        said = on_one_line(code, text)
        if said not in sent.words and len(sent.words) < _WORDS_KEPT:
            sent.words[said] = meaning
            sent.is_rejected = sent.is_rejected or codes.is_rejection(code)
            sent.message_at, sent.looks = now, 0

    def lists_read(self, begun_at: float) -> None:
        """All lists were read, beginning at `begun_at`; every order in them is acknowledged."""
        for sent in self._sent.values():
            if sent.words and begun_at > sent.message_at:
                sent.looks += 1
                sent.looked_at = begun_at

    def id_of(self, client_order_id: str) -> str:
        """The id under which it was sent; empty: no such order."""
        sent = self._sent.get(client_order_id)
        return "" if sent is None else sent.broker_order_id

    def messages_of(self, client_order_id: str) -> str:
        """All messages about it; empty: none."""
        sent = self._sent.get(client_order_id)
        return "" if sent is None else "; ".join(sent.words)

    def refusal_of(self, client_order_id: str) -> Report | None:
        """The order as rejected, with the gateway's messages, once the evidence is complete. Never for one that may
        have been sent before."""
        sent = self._sent.get(client_order_id)
        if sent is None or sent.is_repetition or not sent.is_refused:
            return None
        return Report(
            client_order_id=client_order_id,
            broker_order_id=sent.broker_order_id,
            status=ReportStatus.REJECTED,
            filled_quantity=Decimal(0),
            reason="; ".join(sent.words),
        )


def on_one_line(code: int, text: str) -> str:
    """For people: on one line, and shortened."""
    line = " ".join(text.split())
    return f"{line if len(line) <= _LONGEST else line[:_LONGEST] + '…'} (code {code})"
