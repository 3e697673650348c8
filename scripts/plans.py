"""What execctl shows of a plan of target positions: its orders in their sequence, and why something is not traded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from scripts.display import print_table


def show(outcome: str, console: Console) -> None:
    """`outcome`: what the verb to plan has answered, a JSON object."""
    told: Mapping[str, Any] = json.loads(outcome)
    what = "Nothing is placed, and nothing kept" if told["dry_run"] else f"Plan {told['plan_id']}, {told['state']}"
    console.print(f"{what}: decision {told['decision_id']}, {told['account_id']}, {told['strategy_id']}.", markup=False)
    legs = {leg["leg"]: leg for leg in told["legs"]}
    orders = [
        (order["phase"], order["side"], order["quantity"], legs[order["leg"]]["instrument"], _of(legs[order["leg"]]))
        for order in told["orders"]
    ]
    if orders:
        columns = ("Phase", "Side", "Quantity", "Instrument", "Held -> target")
        print_table(console, "Orders, in the sequence in which they are sent", columns, orders)
    left = [leg for leg in told["legs"] if leg["reason"]]
    if left:
        rows = [(leg["instrument"], leg["side"], leg["wanted"], leg["reason"], leg["note"] or "") for leg in left]
        print_table(
            console, "Not traded, or less", ("Instrument", "Side", "Wanted", "Reason", "Why"), rows, prose=("Why",)
        )
    if not (orders or left):
        console.print("Nothing is to be traded: every target is held.")


def _of(leg: Mapping[str, Any]) -> str:
    return f"{leg['held']} -> {leg['target']}"
