"""The meaning of the gateway's message codes for a caller that waits for an answer.

The gateway sends errors, refusals, warnings and information as one kind of message, distinguished by a code. The codes
below are from IBKR's published lists (the TWS API's "message codes" and the newer "error handling" page), and where
these are silent from users' reports, which are named. There will always be unknown codes, so this table decides only
how soon an answer is known. For an order that the gateway never acknowledged, messages of any code together with its
absence from complete lists are the evidence (`unacknowledged`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Meaning(StrEnum):
    REFUSED = "the order, or the question, is refused for good"
    EXISTS = "the order's id was used before"
    NOT_TAKEN = "nothing was taken of it"
    INFORMATION = "said beside the order, which goes its way"
    TROUBLE = "something went wrong on the way, which says nothing of the order"
    UNKNOWN = "not known: nothing is concluded from it alone"


NO_DEFINITION = 200
REJECTED = 201
CANCELLED = 202
CLIENT_ID_IN_USE = 326
TOO_MANY = 100
ORDER_MESSAGE = 399
LINK_LOST = frozenset({1100, 2110})
LINK_RESTORED_DATA_LOST = 1101
LINK_RESTORED_DATA_KEPT = 1102
MARGIN_WARNING = 2148
"""Of the whole account: its margin is short, or nearly, and IBKR may sell positions without further notice (Lean pull request 1033,
Lean.Brokerages.InteractiveBrokers issue 156). In no published list."""
CANCEL_REFUSED = frozenset({135, 136, 161, 10147, 10148})
"""Not found, or not in a state to be cancelled. What became of the order is another question."""


@dataclass(frozen=True, slots=True)
class CodeGroup:
    """Codes with the same meaning for an order whose placing waits, and why; with each code's text in short."""

    meaning: Meaning
    why: str
    codes: Mapping[int, str]


CODE_GROUPS = (
    CodeGroup(
        Meaning.REFUSED,
        "The contract is not one that can be traded. It is looked at before anything goes on.",
        {
            NO_DEFINITION: "no contract of this description, or several, or no such destination",
            203: "not available or not allowed for this account",
            308: "no room for it on the gateway's page of API orders",
            **dict.fromkeys((312, 313, 314, 315), "the legs of the combination are wrong"),
            392: "the contract has expired",
            406: "this currency is not allowed",
            407: "the symbol has odd characters",
            412: "not available for trading",
            478: "the contract's number contradicts the rest",
            10254: "the bond has expired",
        },
    ),
    CodeGroup(
        Meaning.REFUSED,
        "IBKR's servers, or the checks of the account's rights, say no to the order.",
        {
            REJECTED: "rejected, with the reason in its text; also said of an order that is shown as Inactive or Cancelled",
            435: "no account is named",
            460: "no trading permission",
            10005: "the account is one to be read only",
            10015: "trading by the API is not allowed",
        },
    ),
    CodeGroup(
        Meaning.REFUSED,
        "The gateway cannot read the order, or finds a field of it wrong, and so sends it nowhere.",
        {
            110: "the price is on no tick of the contract",
            111: "this time in force does not go with this type of order",
            113: "orders at the close are for the day",
            **dict.fromkeys((140, 141), "a number cannot be read"),
            145: "a field is wrong",
            160: "the size is zero",
            303: "neither BUY nor SELL",
            320: "the message could not be read",
            321: "the message did not pass its checks; also while the API is set to read only",
            **dict.fromkeys((334, 336, 337, 343, 391), "a date or time cannot be read"),
            355: "the size does not fit the market's rule",
            361: "the trigger price is wrong",
            387: "this type of order does not exist for this exchange and kind of contract",
            388: "smaller than the least size",
            401: "a field is too long",
            403: "the stop price is wrong",
            10250: "the size is on no increment of the contract",
        },
    ),
    CodeGroup(
        Meaning.REFUSED,
        "Sizes in fractions or in money, which the contract, the account or the API's version does not have. Coins meet some of these.",
        {
            **dict.fromkeys((461, 462, 464), "the amount of money is wrong"),
            463: "an amount of money is wanted",
            **dict.fromkeys((10243, 10245, 10246, 10247, 10248, 10249, 10251, 10252, 10318), "no fractions here"),
            **dict.fromkeys(
                (10244, 10286, 10290, 10293, 10317), "no amount of money, not this one, or nothing but one"
            ),
            10285: "the API's version is too old for fractions",
            10289: "an amount of money is wanted",
        },
    ),
    CodeGroup(
        Meaning.REFUSED,
        "Kinds of orders and attributes that this adapter never sends (volatility, scale, algorithm, adviser, fund, short-sale slot, trailing, "
        "conditional, hidden, one-cancels-all orders): a no to what was asked, if they should ever be said.",
        {
            **dict.fromkeys(
                (114, 115, 117, 118, 119, 120, 129, 155, 157, 158, 159, 167, 168),
                "block, VWAP, relative or iceberg order",
            ),
            **dict.fromkeys((146, 147, 148, 398, 402), "conditions and triggers"),
            **dict.fromkeys((144, 332, 333, 344, 345, 346, 424, 425, 426, 433, 436), "an adviser's allocation"),
            **dict.fromkeys((152, 153, 325, 335, 338, 339, 340, 341, 342, 349, 350), "attributes of other kinds"),
            **dict.fromkeys((328, 362, 363, 364), "trailing and adjusted stops"),
            **dict.fromkeys((347, 348, 352, 353, 393), "the slot and place of a short sale"),
            **dict.fromkeys((356, 358, 359, 360, 395, 405), "combinations and groups"),
            **dict.fromkeys(range(367, 381), "volatility orders and their hedges"),
            **dict.fromkeys((408, 409, 410, 417, 418, 419, 446, 447, 448, 449), "scale orders"),
            **dict.fromkeys((413, 415, 416, 423, 429, 437, 445), "what-if, requests for quotes, neutral orders"),
            **dict.fromkeys((427, 428), "funds"),
            **dict.fromkeys((439, 441, 442, 443), "algorithms"),
            **dict.fromkeys((389, 390, 394), "routed orders"),
            **dict.fromkeys((10320, 10321, 10322, 10323, 10324), "bonds, new accounts, one-cancels-all"),
        },
    ),
    CodeGroup(
        Meaning.EXISTS,
        "The gateway knows an order of this id: it takes ours for a second one, or for a change of the first. The first may be alive.",
        {
            103: "the id was used, or is below one that was",
            104: "that order is filled",
            105: "that order is another one",
            134: "that order could not be changed",
            329: "that order cannot become one of this type",
            422: "the account of that order may not be changed",
            **dict.fromkeys((440, 444), "that order cannot be changed now"),
            2102: "that order is still being processed, and cannot be changed",
            **dict.fromkeys((10241, 10242), "that order is in money or fractions, and cannot be changed"),
        },
    ),
    CodeGroup(
        Meaning.NOT_TAKEN,
        "The gateway did not take the message at all, whatever it is about.",
        {TOO_MANY: "too many messages a second", 502: "no connection to it", 504: "it is not connected"},
    ),
    CodeGroup(
        Meaning.INFORMATION,
        "Remarks on orders that work: the order is acknowledged beside them. All of 2100 to 2199 are warnings, too.",
        {
            165: "of a question for history",
            399: "a remark in its text, most often that the order waits for the opening",
            404: "held until shares for the short sale are found (Lean pull request 1026, ib_insync issue 328)",
            481: "the size was made smaller",
            492: "of a scanner",
            2109: "trading outside regular hours does not apply here",
            2137: "the order turns a position round",
            2161: "a price cap was set",
            **dict.fromkeys((2168, 2169), "an attribute is not supported any more, and ignored"),
            **dict.fromkeys((10018, 10019), "warnings of values"),
            10167: "of delayed market data",
            10233: "some fields were taken from a preset",
            **dict.fromkeys((10331, 10332, 10347), "warnings of stops, coins and thin markets"),
            10349: "the time in force was taken from a preset (ib_async issues 191 and 217)",
        },
    ),
    CodeGroup(
        Meaning.TROUBLE,
        "The gateway met trouble while it had the order in hand; it may have passed it on before.",
        {
            133: "submitting failed",
            **dict.fromkeys((322, 323), "an error while it was being processed"),
            **dict.fromkeys((396, 397), "system problems"),
            438: "the gateway is locked",
            **dict.fromkeys((509, 512), "sending failed"),
            10328: "the connection was lost, and the order could not be resolved",
        },
    ),
    CodeGroup(
        Meaning.UNKNOWN,
        "Precautions of the gateway: by its settings the order is refused, or kept there unsent until a person lets it go, or goes on with this as "
        "a warning. Which of them, the lists show.",
        {
            **dict.fromkeys((106, 107, 116, 132, 151, 154), "the order is not transmitted"),
            **dict.fromkeys(
                (109, 125, 126, 163, 164, 382), "the price is far from the market, or there is none to compare it with"
            ),
            **dict.fromkeys((383, 451), "the size is above the limit of the settings"),
            **dict.fromkeys((10287, 10288), "the order for coins is not confirmed"),
            **dict.fromkeys(
                (10311, 10329), "it goes to one exchange directly: a warning, or held back and then discarded"
            ),
        },
    ),
    CodeGroup(
        Meaning.UNKNOWN,
        "Said of orders that end and of orders that work: the order's status tells, or its absence from the lists.",
        {
            131: "an attribute is ignored",
            CANCELLED: "cancelled, with the reason in its text: besides the status, or alone (coins far from the market, Lean pull request 9766)",
            **dict.fromkeys((351, 411), "the flag for trading hours is not valid here: ignored, or refused"),
            434: "the size is zero: of an order for an amount of money the libraries count it a warning",
            **dict.fromkeys(
                (10268, 10269, 10270), "an attribute is not supported: the order goes nowhere (vnpy_ib issue 17)"
            ),
            10052: "the time in force is wrong",
        },
    ),
)
_MEANINGS = {code: sort.meaning for sort in CODE_GROUPS for code in sort.codes}
_REFUSED_QUESTION = frozenset({NO_DEFINITION, 203, 320, 321, 478})
_LINK = frozenset({*LINK_LOST, LINK_RESTORED_DATA_LOST, LINK_RESTORED_DATA_KEPT})


def meaning_for_order(code: int) -> Meaning:
    """For an error on an order's id while its placing waits for an answer. Later the same codes are remarks."""
    usual = Meaning.INFORMATION if 2100 <= code < 2200 else Meaning.UNKNOWN
    return _MEANINGS.get(code, usual)


def meaning_for_question(code: int) -> Meaning:
    """For an error in answer to a contract query."""
    if code in _REFUSED_QUESTION:
        return Meaning.REFUSED
    is_unreached = code in _LINK or _MEANINGS.get(code) is Meaning.NOT_TAKEN
    return Meaning.NOT_TAKEN if is_unreached else Meaning.UNKNOWN


def is_rejection(code: int) -> bool:
    """Whether this code means that an order shown as inactive is rejected, and not only held."""
    return code in (REJECTED, 203)
