"""What is known of an order's sending beyond its record, and what was tried for it: values that are replaced as a whole; no clock, no calls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from execution_service.core.orders.order import Order
from execution_service.core.orders.repetition import RequestHistory
from execution_service.core.orders.status import Reason, ReasonCode, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Of the latest sending; another one begins with nothing known. Moments are seconds of a clock that never jumps."""

    since: datetime | None
    """When it was sent, by the record; None: it was not."""
    refusal: Reason | None = None
    """What the broker said when it was sent again, or in an earlier life when it was sent: no end of it before it has been looked for, since a
    sending may be alive. It is not sent again."""
    is_answered: bool = False
    """The broker has said that it has an order of this id, though it may not show it yet, or has answered it with words alone: sending again
    would tell nothing new."""
    is_passed_over: bool = False
    """The id that the broker gave it beforehand can no longer be used: it is looked for, and not sent again."""
    is_answer_unclear: bool = False
    """The latest look for it was answered, and something in the answer that cannot be read may be the order."""
    repetitions: int = 0
    """How often it has been sent again, or was to be."""
    unclear_repetitions: int = 0
    """How often of that without a clear answer, or in vain."""
    times_untold: int = 0
    """How often in succession it was to be sent again, and the broker did not tell what the stop that it is linked to had filled."""
    repeated_at: float | None = None
    finding_from: float | None = None
    """Since when it has been looked for in vain."""
    asked_at: float | None = None
    """When the broker last said something of it, or was asked in vain."""

    @classmethod
    def of(cls, order: Order) -> Sending:
        """As it is known from the record alone."""
        words = order.undocumented_answer
        refusal = None if words is None else Reason(ReasonCode.BROKER_REJECTED, words)
        return cls(since=order.working_since, refusal=refusal)

    @property
    def may_be_repeated(self) -> bool:
        """As far as the sending is concerned: what may be shown in a way that cannot be read is not sent again either."""
        return not (self.is_passed_over or self.is_answered or self.is_answer_unclear)

    @property
    def is_refused(self) -> bool:
        """It is not sent again, and ends once it has been looked for."""
        return self.is_passed_over or self.refusal is not None

    def not_looked_for(self) -> Sending:
        """It may have arrived only now: whoever looked for it before could not find it."""
        return replace(self, finding_from=None, asked_at=None)

    def told(self) -> Sending:
        """The broker has told what the stop that it is linked to has filled."""
        return replace(self, times_untold=0)

    def untold(self) -> Sending:
        """It has not told that: the order is looked for anew before it is to be sent again."""
        return replace(self.not_looked_for(), times_untold=self.times_untold + 1)

    def repeated(self, now: float) -> Sending:
        return replace(self, repeated_at=now)

    def unclear(self, *, was_repeated: bool, is_answered: bool = False) -> Sending:
        """No answer that says what became of it."""
        return replace(
            self,
            unclear_repetitions=self.unclear_repetitions + was_repeated,
            is_answered=self.is_answered or is_answered,
        )

    def looked_for(self, now: float, *, is_unclear: bool) -> Sending:
        """Looked for in vain, or with an answer that cannot be read; it is searched for anew where an answer can be read again."""
        begins = self.finding_from is None or (self.is_answer_unclear and not is_unclear)
        since = now if begins else self.finding_from
        return replace(self, asked_at=now, finding_from=since, is_answer_unclear=is_unclear)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What was tried for an order, whichever sending it was for."""

    status: Status
    attempt: int
    """The order's, when the latest of these was tried: another means news."""
    failures: int = 0
    """How often the broker could not take it."""
    failure: str = ""
    """Why, the last time."""
    not_before: float = 0.0
    """Nothing is begun for it before then."""
    cancels: RequestHistory = field(default_factory=RequestHistory)
    """The requests to cancel it that were really sent."""
    cancel_not_before: float = 0.0
    """The account's calls do not allow one earlier."""
    is_cancel_commanded: bool = False
    """Somebody has asked for its cancellation since the broker was last asked for it."""
    finds: RequestHistory = field(default_factory=RequestHistory)
    """The looks for it since it is in doubt."""

    @classmethod
    def of(cls, order: Order) -> Tries:
        return cls(status=order.status, attempt=order.attempt)

    def is_of(self, order: Order) -> bool:
        return self.status is order.status and self.attempt == order.attempt

    def with_pauses_reset(self, order: Order) -> Tries:
        """Something has changed: what is asked again of this order is asked soon again."""
        return replace(
            self,
            status=order.status,
            attempt=order.attempt,
            cancels=self.cancels.with_pauses_reset(),
            finds=self.finds.with_pauses_reset(),
        )

    def failed(self, why: str) -> Tries:
        """The broker could not take it."""
        return replace(self, failures=self.failures + 1, failure=why)
