"""What the gateway's message codes mean for whoever waits for an answer; codes only, no texts and no waiting.

The codes are those of IBKR's published list, and where that is silent of its users' reports.
"""

from __future__ import annotations

from enum import StrEnum


class Meaning(StrEnum):
    REFUSED = "the order, or the question, is refused for good"
    EXISTS = "the order's id was used before"
    NOT_TAKEN = "nothing was taken of it"
    INFORMATION = "said beside the order, which goes its way"
    UNKNOWN = "not known: nothing is concluded from it"


NO_DEFINITION = 200
CLIENT_ID_IN_USE = 326
TOO_MANY = 100
CANCELLED = 202
ORDER_MESSAGE = 399
LINK_LOST = frozenset({1100, 2110})
LINK_RESTORED_DATA_LOST = 1101
LINK_RESTORED_DATA_KEPT = 1102
CANCEL_REFUSED = frozenset({135, 136, 161, 10147, 10148})
"""Not found, or in no state to be cancelled. What became of the order is another question."""

_EXISTS = frozenset({103, 104, 105})
_NOT_TAKEN = frozenset({TOO_MANY, 502, 504})
_REFUSED = frozenset(
    {
        # the contract
        *(200, 203, 308, 312, 313, 315, 316, 318, 478),
        # prices, sizes and kinds of orders
        *(
            106,
            107,
            109,
            110,
            111,
            113,
            114,
            116,
            117,
            118,
            119,
            120,
            122,
            123,
            124,
            125,
            126,
            131,
            132,
            133,
            134,
            140,
            141,
        ),
        *(144, 145, 146, 147, 148, 151, 152, 153, 154, 155, 157, 158, 160, 163, 164, 167, 168),
        *(320, 321, 322, 325, 328, 329, 334, 335, 336, 337, 338, 339, 340, 341, 342, 343, 344, 345, 346, 347, 348, 349),
        *(
            350,
            355,
            356,
            358,
            359,
            360,
            361,
            362,
            363,
            364,
            366,
            367,
            368,
            369,
            370,
            371,
            372,
            373,
            374,
            375,
            376,
            377,
            378,
        ),
        *(379, 380, 382, 383, 387, 388, 389, 390, 391, 392, 393, 394, 395, 396, 397, 398, 401, 402, 403, 405, 406, 407),
        *(408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 423, 424, 425, 426, 427, 428, 429, 431, 433, 434),
        *(435, 436, 437, 438, 439, 440, 441, 442, 443, 444, 445, 446, 447, 448, 461, 462, 463, 464),
        # the account
        *(201, 460, 10243, 10244, 10246, 10247, 10289, 10318, 10320, 10321, 10322, 10323, 10324),
    }
)
_REFUSED_QUESTION = frozenset({NO_DEFINITION, 203, 320, 321, 478})
_LINK = frozenset({*LINK_LOST, LINK_RESTORED_DATA_LOST, LINK_RESTORED_DATA_KEPT})
_INFORMATION = frozenset({165, 202, 399, 404, 492, 10167, 10349})


def meaning_for_order(code: int) -> Meaning:
    """Of an error on an order's id while its placing waits for an answer. Later the same codes are words beside the order."""
    if code in _INFORMATION or 2100 <= code < 2200:
        return Meaning.INFORMATION
    if code in _EXISTS:
        return Meaning.EXISTS
    if code in _NOT_TAKEN:
        return Meaning.NOT_TAKEN
    return Meaning.REFUSED if code in _REFUSED else Meaning.UNKNOWN


def meaning_for_question(code: int) -> Meaning:
    """Of an error in answer to a question for a contract."""
    if code in _REFUSED_QUESTION:
        return Meaning.REFUSED
    return Meaning.NOT_TAKEN if code in _NOT_TAKEN or code in _LINK else Meaning.UNKNOWN


def is_rejection(code: int) -> bool:
    """Whether an order that is shown as inactive is thereby rejected, and not only held."""
    return code in (201, 203)
