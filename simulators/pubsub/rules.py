"""What the local Pub/Sub server accepts and what it refuses, and with which of Google's status codes.

It checks requests and fills in defaults; it holds no state.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.pubsub_v1 import types

# The raw protobuf classes: the wrappers around them cost more than everything else on the hot path together.
PubsubMessage: Any = types.PubsubMessage.pb()
Topic: Any = types.Topic.pb()
Subscription: Any = types.Subscription.pb()

LARGEST_REQUEST_BYTES = 10_000_000
_LARGEST_BATCH = 1000
_LARGEST_ATTRIBUTES = 100
_LARGEST_ATTRIBUTE_KEY_BYTES = 256
_LARGEST_ATTRIBUTE_VALUE_BYTES = 1024
_LARGEST_ORDERING_KEY_BYTES = 1024
_DEFAULT_RETENTION_SECONDS = 7 * 86400
_RETENTION_SECONDS = range(600, 31 * 86400 + 1)
_ACK_DEADLINE_SECONDS = range(10, 601)
_MODIFIED_DEADLINE_SECONDS = range(601)

_NAME = re.compile(
    r"projects/(?P<project>[a-z0-9][a-z0-9.:\-]*)/(?P<kind>topics|subscriptions)/(?P<id>[A-Za-z][A-Za-z0-9\-_.~+%]{2,254})"
)
_OUTPUT_ONLY = frozenset(
    {"state", "detached", "satisfies_pzs", "topic_message_retention_duration", "analytics_hub_subscription_info"}
)
_TOPIC_FIELDS = frozenset({"name", "labels"})
_SUBSCRIPTION_FIELDS = frozenset({"name", "topic", "ack_deadline_seconds", "message_retention_duration", "labels"})


class RefusedError(Exception):
    """A request that is answered with an error: the gRPC status and a sentence for the caller."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


def invalid(sentence: str) -> RefusedError:
    """The caller's mistake."""
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, sentence)


def not_found(name: str) -> RefusedError:
    """The named resource does not exist."""
    return RefusedError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")


def already_exists(name: str) -> RefusedError:
    """The named resource exists."""
    return RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={name}).")


def unsupported(feature: str) -> RefusedError:
    """Something Google has and this server does not."""
    return RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"{feature} is not supported by this local Pub/Sub server.")


def check_name(name: str, kind: str) -> None:
    """Raise RefusedError unless `name` is a full topic or subscription name; `kind` is "topics" or "subscriptions"."""
    match = _NAME.fullmatch(name)
    if match is None or match["kind"] != kind or match["id"].lower().startswith("goog"):
        raise invalid(
            f"Invalid [{kind}] name: (name={name}). It must be projects/PROJECT/{kind}/ID, where ID is 3 to 255"
            " letters, digits or -_.~+%, starts with a letter and not with 'goog'."
        )


def check_project(name: str) -> None:
    """Raise RefusedError unless `name` is projects/PROJECT."""
    if re.fullmatch(r"projects/[a-z0-9][a-z0-9.:\-]*", name) is None:
        raise invalid(f"Invalid [projects] name: (name={name}). It must be projects/PROJECT.")


def check_messages(request: Any) -> None:
    """Raise RefusedError unless a PublishRequest can be published whole."""
    if not request.messages:
        raise invalid("The value for message_count is too small. You passed 0 in the request, but the minimum is 1.")
    if len(request.messages) > _LARGEST_BATCH:
        raise invalid(
            f"The value for message_count is too large. You passed {len(request.messages)} in the request,"
            f" but the maximum is {_LARGEST_BATCH}."
        )
    if request.ByteSize() > LARGEST_REQUEST_BYTES:
        raise invalid(
            f"The value for request_size is too large. You passed {request.ByteSize()} in the request,"
            f" but the maximum is {LARGEST_REQUEST_BYTES}."
        )
    for message in request.messages:
        if message.attributes:
            _check_attributes(message.attributes)
        elif not message.data:
            raise invalid("Some messages contain neither data nor attributes: each needs at least one of them.")
        if len(message.ordering_key) > _LARGEST_ORDERING_KEY_BYTES // 4:
            _check_bytes("ordering key", message.ordering_key, _LARGEST_ORDERING_KEY_BYTES)


def _check_attributes(attributes: Any) -> None:
    if len(attributes) > _LARGEST_ATTRIBUTES:
        raise invalid(f"A message has {len(attributes)} attributes; the maximum is {_LARGEST_ATTRIBUTES}.")
    for key, value in attributes.items():
        if not key or key.lower().startswith("goog"):
            raise invalid(f"The attribute key '{key}' is empty or starts with 'goog'.")
        _check_bytes("attribute key", key, _LARGEST_ATTRIBUTE_KEY_BYTES)
        _check_bytes("attribute value", value, _LARGEST_ATTRIBUTE_VALUE_BYTES)


def _check_bytes(what: str, text: str, largest: int) -> None:
    size = len(text.encode())
    if size > largest:
        raise invalid(f"An {what} is {size} bytes long; the maximum is {largest}.")


def settled_topic(given: Any) -> Any:
    """A Topic to keep, made from a request's; raises RefusedError for anything not supported."""
    check_name(given.name, "topics")
    for field, _ in given.ListFields():
        if field.name not in _TOPIC_FIELDS | _OUTPUT_ONLY:
            raise unsupported(f"The topic field {field.name}")
    topic = Topic()
    topic.CopyFrom(given)
    for name in _OUTPUT_ONLY & set(Topic.DESCRIPTOR.fields_by_name):
        topic.ClearField(name)
    topic.state = int(types.Topic.State.ACTIVE)
    return topic


def settled_subscription(given: Any) -> Any:
    """A Subscription to keep, with defaults filled in; raises RefusedError for anything not supported."""
    check_name(given.name, "subscriptions")
    check_name(given.topic, "topics")
    if missing := unsupported_fields(given):
        raise unsupported(f"The subscription field {missing[0]}")
    subscription = Subscription()
    subscription.CopyFrom(given)
    for name in _OUTPUT_ONLY & set(Subscription.DESCRIPTOR.fields_by_name):
        subscription.ClearField(name)
    # Clients read the push configuration to learn that this is a pull subscription: empty, but there.
    subscription.push_config.SetInParent()
    subscription.state = int(types.Subscription.State.ACTIVE)
    if not subscription.ack_deadline_seconds:
        subscription.ack_deadline_seconds = _ACK_DEADLINE_SECONDS.start
    if subscription.ack_deadline_seconds not in _ACK_DEADLINE_SECONDS:
        raise invalid(
            f"Invalid ack deadline given: (ack_deadline_seconds={given.ack_deadline_seconds}). It must be 10 to 600."
        )
    if not subscription.HasField("message_retention_duration"):
        subscription.message_retention_duration.seconds = _DEFAULT_RETENTION_SECONDS
    if subscription.message_retention_duration.seconds not in _RETENTION_SECONDS:
        raise invalid("Invalid message_retention_duration: it must be 10 minutes to 31 days.")
    return subscription


def unsupported_fields(given: Any) -> list[str]:
    """The names of what a Subscription asks for and this server does not have."""
    return [
        field.name
        for field, value in given.ListFields()
        if field.name not in _SUBSCRIPTION_FIELDS | _OUTPUT_ONLY
        and not (field.name == "push_config" and not value.ListFields())
        # "Never expires" is what this server does anyway.
        and not (field.name == "expiration_policy" and not value.HasField("ttl"))
    ]


def check_modified_deadline(seconds: int) -> None:
    """Raise RefusedError unless a lease may be set to this many seconds (0 is a nack)."""
    if seconds not in _MODIFIED_DEADLINE_SECONDS:
        raise invalid(f"Invalid ack deadline given: (ack_deadline_seconds={seconds}). It must be 0 to 600.")


def check_stream_deadline(seconds: int) -> None:
    """Raise RefusedError unless a stream may ask for this acknowledgement deadline."""
    if seconds not in _ACK_DEADLINE_SECONDS:
        raise invalid(f"Invalid stream_ack_deadline_seconds {seconds}: it must be 10 to 600.")
