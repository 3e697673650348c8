"""What can go wrong with a broker, sorted by what the caller must do; no broker's own codes."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all errors that an adapter raises."""


class BrokerUnavailable(BrokerError):
    """Surely nothing was sent: no connection, no session, or the call was not begun.

    `known_pause` says that the broker is expected back by itself or by a person's routine act (a gateway's nightly restart, a token
    to be renewed): orders are held up to their age limit and not rejected.
    """

    def __init__(self, message: str, *, known_pause: bool = False) -> None:
        super().__init__(message)
        self.known_pause = known_pause


class HeldBack(BrokerUnavailable):
    """Surely nothing was sent, and the session is as good as before, but what this order needs from the broker is not to be had now: people
    are told. It may be in about `wait_seconds`; the orders of the instrument are held, in their sequence, up to their age limit.
    """

    def __init__(self, message: str, *, wait_seconds: float) -> None:
        super().__init__(message, known_pause=True)
        self.wait_seconds = wait_seconds


class RateLimited(HeldBack):
    """The account's budget of calls is spent; calls may leave again in about `wait_seconds`, which nobody needs to be told."""


class NotAnswered(BrokerError):
    """A question that has to be answered before an order may leave got no answer, or one that says neither yes nor no. Surely nothing was
    sent, and the session is as good as before: asked again after a pause, and not for ever.
    """


class OrderRefused(BrokerError):
    """The broker, or the adapter before sending, said no. Final: the same ticket is never sent again.

    `reason` is for people; `unsupported` is set when the adapter refused what the broker cannot do at all.
    """

    def __init__(self, reason: str, *, unsupported: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsupported = unsupported


class ReservationLost(BrokerError):
    """The broker's own id that was reserved for the order can no longer be used: a later one has left, another order has it, or the session
    is another one. Nothing was sent now, and the session is as good as before; a ticket that has never left may have a new id.
    """


class OrderAlreadyExists(BrokerError):
    """The broker already has an order under this client id: the earlier sending had arrived."""


class OutcomeUnknown(BrokerError):
    """Sent, or perhaps sent, and no usable answer. Nothing may be concluded; the order must be looked for."""


class UndocumentedAnswer(OutcomeUnknown):
    """The broker answered the order with words, and neither took it nor refused it in a way that it documents. Sending it again would only
    ask for the same words, and so it is looked for and not sent again. Where the broker's words and the order's absence together are a
    refusal, `Broker.find` reports it as rejected. `words` are the broker's.
    """

    def __init__(self, words: str) -> None:
        super().__init__(f"answered by words alone: {words}")
        self.words = words


class AnswerUnclear(BrokerError):
    """The broker answered a question, but this order's state could not be read from it: nothing is concluded, and it is asked again."""


class AuthRequired(BrokerUnavailable):
    """The session is dead until a person logs in: a known pause. The message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, known_pause=True)


class UnknownBroker(BrokerError):
    """No adapter of that name; the message lists those there are."""


class BrokerLibraryMissing(BrokerError):
    """The adapter exists, its client library is not installed; the message names the extra to install."""
