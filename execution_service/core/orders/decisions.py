"""What is asked of the decisions that orders name: whether they exist, and what follows where one does not. Asks nobody itself."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Reason, ReasonCode


class VerifyDecisions(StrEnum):
    """What is done about an order that names a decision which `pipeline_decisions` does not have."""

    OFF = "off"
    WARN = "warn"
    """It goes on, and people are told, once for each decision."""
    REFUSE = "refuse"
    """It is rejected; an exit goes on, and people are told."""


def decision_of(order: Order) -> str | None:
    """The id of the decision that it names; None: of a signal that names none, and of a refused message."""
    request = order.request
    return request.decision.decision_id if isinstance(request, OrderRequest) and request.decision is not None else None


def is_refused_without(order: Order, verify: VerifyDecisions) -> bool:
    """Whether the order may not be placed while its decision is not known to exist. An exit always may: what it closes is held, whoever decided
    it."""
    return verify is VerifyDecisions.REFUSE and order.identity.purpose is Purpose.ENTRY


def unknown_decision(decision_id: str) -> Reason:
    """Why such an order is rejected."""
    return Reason(ReasonCode.UNKNOWN_DECISION, f"decision {decision_id} is not in pipeline_decisions")


def unread_decision(unread_ids: Collection[str]) -> Reason | None:
    """Why an order is rejected whose decision is named and cannot be read, where it has to exist; None: it can be."""
    if "decision_id" not in unread_ids:
        return None
    return Reason(ReasonCode.UNKNOWN_DECISION, "decision_id cannot be read, and has to be in pipeline_decisions")
