"""The topics and subscriptions of Pub/Sub that the settings ask for, by name; knows no client, and is loaded before one is."""

from __future__ import annotations

from collections.abc import Sequence

from execution_service.app.embedded import TopicPlan
from execution_service.app.settings.loading import Settings
from execution_service.core.messages.events_in import HINTS_OF_THE_SPEC, MANUAL
from execution_service.core.messages.events_out import EVENTS_OUT

TARGETS_TOPIC, PLAN_RESULTS_TOPIC = "target-positions", "execution-plan-results"
TARGETS_SUBSCRIPTION = f"{TARGETS_TOPIC}-sub"


def topic_plan(settings: Settings) -> TopicPlan:
    """What the local Pub/Sub is to have."""
    confirmations = settings.execution_confirmations_topic
    events_in = topics_of_events_in(settings) if settings.pubsub_events else ()
    events_out = EVENTS_OUT if settings.pubsub_events else ()
    targets = (TARGETS_TOPIC, PLAN_RESULTS_TOPIC) if settings.takes_targets else ()
    return TopicPlan(
        settings.google_cloud_project,
        ("trading-orders", "order-commands", confirmations, *events_in, *events_out, *targets),
        (
            (settings.trading_orders_subscription, "trading-orders"),
            (settings.order_commands_subscription, "order-commands"),
            *((subscription_of(topic), topic) for topic in (confirmations, *events_in, *targets)),
        ),
    )


def topics_of_events_in(settings: Settings, hints: Sequence[str] = HINTS_OF_THE_SPEC) -> Sequence[str]:
    """A stream that is not there costs nothing; a topic has to be made by somebody."""
    return (settings.trigger_events.value, MANUAL, *hints)


def subscription_of(topic: str) -> str:
    """Where no setting names it."""
    return f"{topic}-sub"
