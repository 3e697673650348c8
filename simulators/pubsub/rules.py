"""What the local Pub/Sub server accepts and what it refuses, and with which of Google's status codes.

It checks requests and fills in defaults; it holds no state.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.pubsub_v1 import types

from simulators.pubsub.backlog import Terms

# The raw protobuf classes: the wrappers around them cost more than everything else on the hot path together.
PubsubMessage: Any = types.PubsubMessage.pb()
Topic: Any = types.Topic.pb()
Subscription: Any = types.Subscription.pb()

DELETED_TOPIC = "_deleted-topic_"
LARGEST_REQUEST_BYTES = 10_000_000
_LARGEST_BATCH = 1000
_LARGEST_ATTRIBUTES = 100
_LARGEST_ATTRIBUTE_KEY_BYTES = 256
_LARGEST_ATTRIBUTE_VALUE_BYTES = 1024
_LARGEST_ORDERING_KEY_BYTES = 1024
_DEFAULT_RETENTION_SECONDS = 7 * 86400
_RETENTION_SECONDS = range(600, 31 * 86400 + 1)
_BACKOFF_SECONDS = range(601)
_ACK_DEADLINE_SECONDS = range(10, 601)
_MODIFIED_DEADLINE_SECONDS = range(601)
_DELIVERY_ATTEMPTS = range(5, 101)
_DEFAULT_MIN_BACKOFF_SECONDS = 10
_DEFAULT_MAX_BACKOFF_SECONDS = 600

_NAME = re.compile(
    r"projects/(?P<project>[a-z0-9][a-z0-9.:\-]*)/(?P<kind>topics|subscriptions)/(?P<id>[A-Za-z][A-Za-z0-9\-_.~+%]{2,254})"
)
_OUTPUT_ONLY = frozenset(
    {"state", "detached", "satisfies_pzs", "topic_message_retention_duration", "analytics_hub_subscription_info"}
)
_TOPIC_FIELDS = frozenset({"name", "labels"})
_TOPIC_CHANGES = frozenset({"labels"})
_SUBSCRIPTION_FIELDS = frozenset(
    {
        "name",
        "topic",
        "ack_deadline_seconds",
        "retain_acked_messages",
        "message_retention_duration",
        "labels",
        "enable_message_ordering",
        "dead_letter_policy",
        "retry_policy",
    }
)
_SUBSCRIPTION_CHANGES = _SUBSCRIPTION_FIELDS - {"name", "topic", "enable_message_ordering"}
_ALWAYS_IMMUTABLE = frozenset({"name", "topic", "enable_message_ordering"})


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


def short_name(name: str) -> tuple[str, str]:
    """The project and the id within a full name."""
    _, project, _, identifier = name.split("/", 3)
    return project, identifier


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
    _refuse_unknown_fields(given, _TOPIC_FIELDS, "topic")
    topic = Topic()
    topic.CopyFrom(given)
    for name in _OUTPUT_ONLY & set(Topic.DESCRIPTOR.fields_by_name):
        topic.ClearField(name)
    topic.state = int(types.Topic.State.ACTIVE)
    return topic


def settled_subscription(given: Any) -> Any:
    """A Subscription to keep, with defaults filled in; raises RefusedError for anything not supported."""
    check_name(given.name, "subscriptions")
    if given.topic != DELETED_TOPIC:
        check_name(given.topic, "topics")
    _refuse_unsupported_subscription(given)
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
    if subscription.HasField("dead_letter_policy"):
        _settle_dead_letter_policy(subscription.dead_letter_policy)
    if subscription.HasField("retry_policy"):
        _settle_retry_policy(subscription.retry_policy)
    return subscription


def _settle_dead_letter_policy(policy: Any) -> None:
    check_name(policy.dead_letter_topic, "topics")
    if not policy.max_delivery_attempts:
        policy.max_delivery_attempts = _DELIVERY_ATTEMPTS.start
    if policy.max_delivery_attempts not in _DELIVERY_ATTEMPTS:
        raise invalid(f"Invalid max_delivery_attempts {policy.max_delivery_attempts}: it must be 5 to 100.")


def _settle_retry_policy(policy: Any) -> None:
    if not policy.HasField("minimum_backoff"):
        policy.minimum_backoff.seconds = _DEFAULT_MIN_BACKOFF_SECONDS
    if not policy.HasField("maximum_backoff"):
        policy.maximum_backoff.seconds = _DEFAULT_MAX_BACKOFF_SECONDS
    least, most = _seconds(policy.minimum_backoff), _seconds(policy.maximum_backoff)
    if not 0 <= least <= most <= _BACKOFF_SECONDS.stop - 1:
        raise invalid(
            f"Invalid retry policy: minimum back-off {least:g} s and maximum back-off {most:g} s must be 0 to 600"
            " seconds and in that order."
        )


def _refuse_unsupported_subscription(given: Any) -> None:
    for field, value in given.ListFields():
        if field.name == "push_config" and not value.ListFields():
            continue
        # "Never expires" is what this server does anyway.
        if field.name == "expiration_policy" and not value.HasField("ttl"):
            continue
        if field.name not in _SUBSCRIPTION_FIELDS and field.name not in _OUTPUT_ONLY:
            raise unsupported(f"The subscription field {field.name}")


def _refuse_unknown_fields(given: Any, known: frozenset[str], what: str) -> None:
    for field, _ in given.ListFields():
        if field.name not in known and field.name not in _OUTPUT_ONLY:
            raise unsupported(f"The {what} field {field.name}")


def updated_topic(current: Any, given: Any, paths: list[str]) -> Any:
    """The Topic after an update of the named fields."""
    return settled_topic(_merged(Topic, current, given, paths, _TOPIC_CHANGES))


def updated_subscription(current: Any, given: Any, paths: list[str]) -> Any:
    """The Subscription after an update of the named fields."""
    # A whole policy may be named, or one field of it; the rest of the request is not looked at, as with Google.
    changes = _SUBSCRIPTION_CHANGES | {"push_config", "expiration_policy"}
    return settled_subscription(_merged(Subscription, current, given, paths, changes))


def _merged(kind: Any, current: Any, given: Any, paths: list[str], changes: frozenset[str]) -> Any:
    if not paths:
        raise invalid("The update_mask in the request must be set and name at least one field.")
    merged = kind()
    merged.CopyFrom(current)
    for path in paths:
        name, _, inner = path.partition(".")
        field = kind.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise invalid(f"Invalid update_mask: there is no field {path}.")
        if name in _ALWAYS_IMMUTABLE or name in _OUTPUT_ONLY:
            raise invalid(f"Invalid update_mask: the field {name} cannot be changed.")
        if name not in changes:
            raise unsupported(f"Changing the field {name}")
        if inner:
            _copy_inner(merged, given, name, inner, path)
        else:
            merged.ClearField(name)
            if (field.is_repeated and getattr(given, name)) or (field.has_presence and given.HasField(name)):
                single = kind()
                _copy_field(single, given, field)
                merged.MergeFrom(single)
            elif not field.is_repeated and not field.has_presence:
                setattr(merged, name, getattr(given, name))
    return merged


def _copy_field(target: Any, source: Any, field: Any) -> None:
    target.CopyFrom(source)
    for other, _ in source.ListFields():
        if other.name != field.name:
            target.ClearField(other.name)


def _copy_inner(merged: Any, given: Any, name: str, inner: str, path: str) -> None:
    into, source = getattr(merged, name), getattr(given, name)
    field = getattr(type(into), "DESCRIPTOR", None) and type(into).DESCRIPTOR.fields_by_name.get(inner)
    if not field:
        raise invalid(f"Invalid update_mask: there is no field {path}.")
    into.ClearField(inner)
    if field.message_type is None:
        setattr(into, inner, getattr(source, inner))
    elif source.HasField(inner):
        getattr(into, inner).CopyFrom(getattr(source, inner))


def check_modified_deadline(seconds: int) -> None:
    """Raise RefusedError unless a lease may be set to this many seconds (0 is a nack)."""
    if seconds not in _MODIFIED_DEADLINE_SECONDS:
        raise invalid(f"Invalid ack deadline given: (ack_deadline_seconds={seconds}). It must be 0 to 600.")


def check_stream_deadline(seconds: int) -> None:
    """Raise RefusedError unless a stream may ask for this acknowledgement deadline."""
    if seconds not in _ACK_DEADLINE_SECONDS:
        raise invalid(f"Invalid stream_ack_deadline_seconds {seconds}: it must be 10 to 600.")


def terms_of(subscription: Any) -> Terms:
    """What a settled Subscription asks of its backlog."""
    has_retry = subscription.HasField("retry_policy")
    has_dead_letter = subscription.HasField("dead_letter_policy")
    return Terms(
        ack_deadline_seconds=subscription.ack_deadline_seconds,
        ordered=subscription.enable_message_ordering,
        min_backoff_seconds=_seconds(subscription.retry_policy.minimum_backoff) if has_retry else 0.0,
        max_backoff_seconds=_seconds(subscription.retry_policy.maximum_backoff) if has_retry else 0.0,
        max_attempts=subscription.dead_letter_policy.max_delivery_attempts if has_dead_letter else None,
    )


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos / 1e9
    return seconds
