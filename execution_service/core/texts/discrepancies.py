"""The texts about discrepancies and comparisons with the broker, for Telegram and the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyKind, Finding
from execution_service.core.texts.messages import (
    LONGEST_OF_CAUSE,
    LONGEST_OF_LINE,
    NAMED_AT_MOST,
    counted_title,
    html_message,
    with_count,
)
from execution_service.core.texts.values import counted_noun, plain, shortened

LONGEST_OF_FINDINGS = 2500
"""Characters of all differences named in one message; Telegram allows 4096 in all."""


# --- reconciliation ---------------------------------------------------------------------------------------------------

_DIFFERENCES = {
    DiscrepancyKind.ORDER_NOT_SHOWN: "Working order not shown by the broker",
    DiscrepancyKind.ORDER_UNKNOWN: "Order at the broker with a tag of ours and no record",
    DiscrepancyKind.ORDER_ALIVE: "Order working at the broker against our record",
    DiscrepancyKind.ORDER_TWICE: "Several orders at the broker under one tag",
    DiscrepancyKind.EARLIER_ATTEMPT_FILLED: "Earlier sending filled after the order was sent again",
    DiscrepancyKind.FILLS_MISSING: "Broker's count and executions differ",
    DiscrepancyKind.OVERFILLED: "More filled than ordered",
    DiscrepancyKind.IN_DOUBT: "Order in doubt",
    DiscrepancyKind.POSITION_DIFFERS: "Position differs",
}


def difference(finding: Finding) -> str:
    """One difference in one sentence: what it is, what it is about, and both sides."""
    about = plain(finding.signal_id or finding.instrument or finding.client_order_id or finding.subject)
    about += f" in {plain(finding.product)}" if finding.product else ""
    sides = f"ours {plain(finding.ours)}; the broker's {plain(finding.theirs)}"
    more = background(finding)
    return f"{_DIFFERENCES[finding.kind]}: {about}: {sides}{'; ' if more else ''}{more}"


def background(finding: Finding) -> str:
    """The background of a difference: what is known besides its two sides."""
    said = [f"before: {plain(finding.before)}"] if finding.before else []
    said += [plain(finding.note)] if finding.note else []
    if finding.resting:
        said.append(
            f"exits at the broker that may take more than it holds, to be cancelled if so: {plain(finding.resting)}"
        )
    return "; ".join(said)


def next_step(finding: Finding) -> str:
    """What a person should do about a difference; docs/operations.md says more."""
    order, tag = plain(finding.order_id or ""), plain(finding.client_order_id or "")
    match finding.kind:
        case DiscrepancyKind.ORDER_NOT_SHOWN:
            return (
                f"Look for {tag} in the broker's own screen, finished orders and earlier days too. Dead with the fills that we hold: "
                f"execctl resolve {order} --as cancelled. Alive: nothing, it is asked on."
            )
        case DiscrepancyKind.ORDER_UNKNOWN:
            return (
                f"Find out who placed {tag}: another installation on this account, or this one before its store was restored. "
                "Until then cancel it at the broker if it is not wanted; this service does not touch it."
            )
        case DiscrepancyKind.ORDER_ALIVE:
            return f"Cancel it in the broker's own screen if it is not wanted; see execctl order {order}. What it fills is recorded."
        case DiscrepancyKind.ORDER_TWICE:
            return "Cancel the one too many in the broker's own screen, and undo by hand what it has filled."
        case DiscrepancyKind.EARLIER_ATTEMPT_FILLED:
            return f"See execctl order {order}: cancel it if it still works, and undo by hand what has filled twice."
        case DiscrepancyKind.FILLS_MISSING:
            return (
                f"Compare the executions of {tag} in the broker's own screen with execctl order {order}. They are asked for on; "
                "no fill is made up."
            )
        case DiscrepancyKind.OVERFILLED:
            return f"See execctl order {order}, and undo by hand what is too much; a correction by the broker is recorded by itself."
        case DiscrepancyKind.IN_DOUBT:
            return f"Look for {tag} at the broker among open, finished and rejected orders, then decide: execctl resolve {order}."
        case DiscrepancyKind.POSITION_DIFFERS:
            return (
                "Compare the broker's trades with execctl orders: a square-off, a trade by hand, an assignment or expiry, a transfer, or an order "
                "in doubt. Undo it at the broker, have our books follow it (see execctl adopt --help), or leave it if it is meant. "
                "Until it is resolved, exits of it take no more than the broker holds."
            )


def discrepancy_opened(opened: Discrepancy, *, account_name: str, broker: str) -> str:
    """The Telegram text when a discrepancy is opened; no other is sent."""
    return discrepancy(
        count=1,
        account_name=account_name,
        broker=broker,
        detail=difference(opened.finding),
        to_do=opened.next_step,
    )


def reconciled(
    *,
    open_orders: int,
    executions: int,
    positions: int | None,
    discrepancies: int,
    unconfirmed: int,
    looked_for: int,
    orders_not_ours: int,
    positions_not_ours: int,
) -> str:
    """The outcome of a complete comparison, for the log. `positions`: how many agree; None if the broker does not
    report them."""
    counts = f"{counted_noun(open_orders, 'open order')}, {counted_noun(executions, 'execution')}"
    agree = f"{counts} agree" if positions is None else f"{counts}, {counted_noun(positions, 'position')} agree"
    differ = ["positions not told"] if positions is None else []
    if discrepancies:
        differ.append(f"{counted_noun(discrepancies, 'discrepancy')} open, see execctl discrepancies")
    if unconfirmed:
        differ.append(f"{counted_noun(unconfirmed, 'difference')} to be confirmed by the next reading")
    if looked_for:
        differ.append(f"{counted_noun(looked_for, 'order')} perhaps sent and still looked for")
    foreign = []
    if orders_not_ours:
        foreign.append(counted_noun(orders_not_ours, "order"))
    if positions_not_ours:
        foreign.append(counted_noun(positions_not_ours, "position"))
    said = [f"{'Not reconciled' if differ else 'Reconciled'}: {agree}", *differ]
    if foreign:
        said.append(f"not ours and left alone: {' and '.join(foreign)}")
    return "; ".join(said)


def discrepancies(texts: Sequence[str], count: int) -> str:
    """Several discrepancies of one account, opened together, in one message that names as many as fit."""
    if len(texts) == 1:
        return with_count(texts[0], count)
    lines = [dict(line.partition(": ")[::2] for line in text.split("\n")[2:]) for text in texts]
    found = list(dict.fromkeys(each["Found"] for each in lines if "Found" in each))
    named = [words for place, words in enumerate(found) if sum(map(len, found[: place + 1])) <= LONGEST_OF_FINDINGS]
    if len(named) < len(found):
        named.append(f"and {len(found) - len(named)} more: see execctl discrepancies")
    steps = {each["To do"] for each in lines if "To do" in each}
    to_do = steps.pop() if len(steps) == 1 else "execctl discrepancies says for each what to do"
    fields = lines[-1] | {"Found": "".join(f"\n- {words}" for words in named), "To do": to_do}
    title = texts[-1].partition("\n")[0]
    body = "\n".join(f"{name}:{value}" if name == "Found" else f"{name}: {value}" for name, value in fields.items())
    return f"{counted_title(title, count)}\n\n{body}"


def not_compared(*, account_name: str, broker: str, why: Mapping[str, str]) -> str:
    """An unexpected error kept these from being compared with the broker; others were. `why`: by signal or position."""
    named = [
        f"{shortened(what, LONGEST_OF_LINE)}: {shortened(reason, LONGEST_OF_CAUSE)}" for what, reason in why.items()
    ]
    more = f"; and {len(named) - NAMED_AT_MOST} more" if len(named) > NAMED_AT_MOST else ""
    return html_message(
        "⚠️ Not Compared",
        ("Account", account_name),
        ("Broker", broker),
        ("What", f"{'; '.join(named[:NAMED_AT_MOST])}{more}"),
        ("Meanwhile", "nothing is concluded of it; everything else is compared as ever"),
        ("To do", "compare it by hand with the broker's own screen, and tell the maintainers"),
    )


def discrepancy(*, count: int, account_name: str, broker: str, detail: str, to_do: str = "") -> str:
    """The broker's books and ours differ."""
    where = (("Account", account_name), ("Broker", broker))
    then = (("To do", to_do),) if to_do else ()
    return html_message(counted_title("⚠️ Discrepancy", count), *where, ("Found", detail), *then)
