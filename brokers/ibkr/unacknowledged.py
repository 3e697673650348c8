"""Orders that were sent to a gateway and that it has not acknowledged: what it said on their ids, and when that is a refusal; no socket and no clock.

IBKR answers an order with an openOrder and statuses, and may say errors on its id besides. Some orders it answers with an error alone, of any
code: they are nowhere, now or later (vnpy_ib issue 17, Lean.Brokerages.InteractiveBrokers pull request 245). But errors are also said of orders
that work, before they are acknowledged, too. So neither the words nor the silence proves anything by itself. Words on an id that was not
acknowledged, and whole looks at all lists without the order, begun when an acknowledgement would long have come, are taken as the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from brokers.base import Report, ReportStatus
from brokers.ibkr import codes
from brokers.ibkr.blotter import Hold

LOOKS = 2
"""So many whole looks without the order, all begun after the words."""
SILENCE_SECONDS = 2.0
"""The last of the looks begins so long after the words, or later. A gateway acknowledges an order within fractions of a second."""
LONG_SILENCE_SECONDS = 7.0
"""The same where all that was said are remarks, which are made on orders that work, trouble, which tells nothing, or that there is an order of this
id, which must then be another. Well below the find window, after which the order would be in doubt."""
_WORDS_KEPT = 5
_LONGEST = 500
_REMARKS = frozenset({codes.Meaning.INFORMATION, codes.Meaning.TROUBLE})
_VAGUE = frozenset({*_REMARKS, codes.Meaning.EXISTS})


@dataclass(frozen=True, slots=True)
class Beside:
    """What was said of an order before it was acknowledged."""

    words: str
    """Empty: nothing but remarks."""
    is_rejection: bool
    """It rejects the order if that is shown as inactive."""
    hold: Hold | None
    """It waits for the opening."""


@dataclass(slots=True)
class _Sent:
    """One order; `said_at` and `looked_at` by the clock of whoever tells them."""

    client_order_id: str
    broker_order_id: str
    is_repetition: bool
    sent_at: float
    words: dict[str, codes.Meaning] = field(default_factory=dict)
    is_rejected: bool = False
    hold: Hold | None = None
    said_at: float = 0.0
    looks: int = 0
    looked_at: float = 0.0

    @property
    def is_refused(self) -> bool:
        silence = LONG_SILENCE_SECONDS if _VAGUE.issuperset(self.words.values()) else SILENCE_SECONDS
        return bool(self.words) and self.looks >= LOOKS and self.looked_at - self.said_at >= silence


class Unacknowledged:
    """By our tag. Times are seconds of a clock that does not jump."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}
        self._tags: dict[str, str] = {}
        """By the broker's id."""

    def sent(self, client_order_id: str, broker_order_id: str, *, is_repetition: bool, now: float) -> None:
        """It leaves now. `is_repetition`: it has perhaps left before, so that words on this sending tell nothing of that one."""
        self.forget(client_order_id)
        self.forget(self.tag_of(broker_order_id))  # a gateway may count its ids anew
        self._sent[client_order_id] = _Sent(client_order_id, broker_order_id, is_repetition, now)
        self._tags[broker_order_id] = client_order_id

    def forget(self, client_order_id: str) -> None:
        """It was surely not taken."""
        self._forgotten(client_order_id)

    def _forgotten(self, client_order_id: str) -> _Sent | None:
        sent = self._sent.pop(client_order_id, None)
        if sent is not None:
            del self._tags[sent.broker_order_id]
        return sent

    def acknowledged(self, client_order_id: str) -> Beside | None:
        """The gateway has shown the order; returns what was said beside it before, if anything that matters now."""
        sent = self._forgotten(client_order_id)
        words = [] if sent is None else [said for said, meaning in sent.words.items() if meaning not in _REMARKS]
        if sent is None or not (words or sent.hold):
            return None
        return Beside("; ".join(words), sent.is_rejected, sent.hold)

    def forget_before(self, moment: float) -> None:
        """Those sent earlier: of another day."""
        for tag in [tag for tag, each in self._sent.items() if each.sent_at < moment]:
            self.forget(tag)

    def tag_of(self, broker_order_id: str) -> str:
        """Empty: no such order."""
        return self._tags.get(broker_order_id, "")

    def said(self, broker_order_id: str, code: int, text: str, now: float, *, hold: Hold | None = None) -> None:
        """Words on an order's id. That it took nothing is no word about the order. `hold`: what they say of its waiting for the opening, which is
        said once."""
        sent = self._sent.get(self.tag_of(broker_order_id))
        if sent is not None:
            sent.hold = hold or sent.hold
        meaning = codes.meaning_for_order(code)
        if sent is None or meaning is codes.Meaning.NOT_TAKEN:
            return
        said = worded(code, text)
        if said not in sent.words and len(sent.words) < _WORDS_KEPT:
            sent.words[said] = meaning
            sent.is_rejected = sent.is_rejected or codes.is_rejection(code)
            sent.said_at, sent.looks = now, 0

    def looked(self, begun_at: float) -> None:
        """All lists were read, from `begun_at` on, and whatever they have is acknowledged."""
        for sent in self._sent.values():
            if sent.words and begun_at > sent.said_at:
                sent.looks += 1
                sent.looked_at = begun_at

    def id_of(self, client_order_id: str) -> str:
        """Under which it left; empty: no such order."""
        sent = self._sent.get(client_order_id)
        return "" if sent is None else sent.broker_order_id

    def words_of(self, client_order_id: str) -> str:
        """All that was said of it; empty: nothing."""
        sent = self._sent.get(client_order_id)
        return "" if sent is None else "; ".join(sent.words)

    def refusal_of(self, client_order_id: str) -> Report | None:
        """The order as rejected in the gateway's words, once the evidence is complete. Never of one that has perhaps left before."""
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


def worded(code: int, text: str) -> str:
    """As people read it: on one line, and not without end."""
    line = " ".join(text.split())
    return f"{line if len(line) <= _LONGEST else line[:_LONGEST] + '…'} (code {code})"
