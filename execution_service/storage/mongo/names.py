"""The names of the collections, and of the words by which records are looked up."""

from __future__ import annotations

ORDERS = "execution_orders"
POSITIONS = "execution_positions"
LEDGER_LINES = "execution_ledger_lines"
COMMANDS = "execution_commands"
ALERTS = "execution_alerts"
DEAD_LETTERS = "execution_dead_letters"
DISCREPANCIES = "execution_discrepancies"
LEASES = "execution_leases"
KILL_SWITCHES = "execution_kill_switches"
BOOKMARKS = "execution_bookmarks"
API_TOKENS = "execution_api_tokens"
RISK = "execution_risk"
PLANS = "execution_plans"
STANCES = "execution_stances"
CONFIRMATIONS_VIEW = "execution_confirmations"
SIGNALS_VIEW = "signal_store"
POSITIONS_VIEW = "positions"
TRADING_ORDERS_VIEW = "trading_orders"
TRADING_ACCOUNTS_VIEW = "trading_accounts"
TRADES_VIEW = "trades"
DECISIONS_OF_OTHERS = "pipeline_decisions"
WRITTEN = (
    *(
        ORDERS,
        POSITIONS,
        LEDGER_LINES,
        COMMANDS,
        ALERTS,
        DEAD_LETTERS,
        DISCREPANCIES,
        LEASES,
        KILL_SWITCHES,
        BOOKMARKS,
        API_TOKENS,
        RISK,
    ),
    *(
        PLANS,
        STANCES,
        CONFIRMATIONS_VIEW,
        SIGNALS_VIEW,
        POSITIONS_VIEW,
        TRADING_ORDERS_VIEW,
        TRADING_ACCOUNTS_VIEW,
        TRADES_VIEW,
    ),
)
"""Every collection that the service writes to."""
UNSETTLED = "unsettled"
"""A word in `lookup` for as long as the record is unfinished or owes the world something: one index serves all questions, and on the
embedded store each further index makes every update of a record about a third dearer."""

LEFT = "left:"
"""In `lookup`, before a desk's name: another process wrote the record, and the desk's holder has not looked at it since."""
