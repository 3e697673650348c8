"""The errors of a broker, classified by what the caller must do. No broker's own codes."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all errors that an adapter raises."""


class BrokerUnavailable(BrokerError):
    """Certainly nothing was sent: no connection, no session, or the call was not started.

    `known_pause`: the broker is expected back by itself or after a person's routine action (a gateway's nightly
    restart, a token renewal). Orders are then kept up to their age limit instead of being rejected.
    """

    def __init__(self, message: str, *, known_pause: bool = False) -> None:
        super().__init__(message)
        self.known_pause = known_pause


class HeldBack(BrokerUnavailable):
    """Certainly nothing was sent, and the session is fine, but the broker cannot give now what this order needs.
    People are told. It may be available in about `wait_seconds`; the orders of the instrument wait, in their order,
    up to their age limit."""

    def __init__(self, message: str, *, wait_seconds: float) -> None:
        super().__init__(message, known_pause=True)
        self.wait_seconds = wait_seconds


class RateLimited(HeldBack):
    """The account's rate budget is used up. Calls are possible again in about `wait_seconds`; people are not told."""


class NotAnswered(BrokerError):
    """A query that must be answered before an order may be sent got no answer, or an ambiguous one. Certainly
    nothing was sent, and the session is fine. The query is repeated after a pause, a limited number of times."""


class OrderRefused(BrokerError):
    """The broker, or the adapter before sending, refused. Final: the same ticket is never sent again.

    `reason` is for people. `unsupported`: the adapter refused what the broker does not support at all.
    """

    def __init__(self, reason: str, *, unsupported: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsupported = unsupported


class ReservationLost(BrokerError):
    """The broker's order id that was reserved for the order is no longer usable: a later one was sent, another order
    has it, or the session has changed. Nothing was sent now, and the session is fine. A ticket that was never sent
    may reserve another id."""


class OrderAlreadyExists(BrokerError):
    """The broker already has an order under this client order id: the earlier sending had arrived."""


class OutcomeUnknown(BrokerError):
    """Sent, or possibly sent, without a usable answer. Nothing may be concluded; the order must be searched for."""


class UndocumentedAnswer(OutcomeUnknown):
    """The broker answered the order with a message that it documents neither as an acceptance nor as a refusal.
    Sending again would only get the same message, so the order is searched for and not sent again. If the message
    and the order's absence together prove a refusal, `Broker.find` reports it as rejected. `words` is the broker's
    message."""

    def __init__(self, words: str) -> None:
        super().__init__(f"answered by words alone: {words}")
        self.words = words


class AnswerUnclear(BrokerError):
    """The broker answered a query, but this order's state could not be read from the answer. Nothing is concluded,
    and the query is repeated."""


class AuthRequired(BrokerUnavailable):
    """The session is dead until a person logs in: a known pause. The message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, known_pause=True)


class UnknownBroker(BrokerError):
    """There is no adapter of that name; the message lists those that exist."""


class BrokerLibraryMissing(BrokerError):
    """The adapter exists, but its client library is not installed; the message names the extra to install."""
