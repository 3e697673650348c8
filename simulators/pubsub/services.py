"""The gRPC doors of the local Pub/Sub server: google.pubsub.v1.Publisher and Subscriber.

They turn requests into calls of the hub and refusals into statuses. What this server does not have is answered with
UNIMPLEMENTED and its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from simulators.pubsub import rules
from simulators.pubsub.backlog import Receiver
from simulators.pubsub.hub import Delivery, Hub, StreamClosedError
from simulators.pubsub.ledger import LedgerWriteError

log = logging.getLogger(__name__)

_PULL_WAIT_SECONDS = 5.0
_PULL_MARGIN_SECONDS = 0.25

_PublishResponse: Any = types.PublishResponse.pb()
_PullResponse: Any = types.PullResponse.pb()
_StreamingPullRequest: Any = types.StreamingPullRequest.pb()
_StreamingPullResponse: Any = types.StreamingPullResponse.pb()
_ListSubscriptionsResponse: Any = types.ListSubscriptionsResponse.pb()

Answer = Callable[[Any, Any], Awaitable[Any]]


class Doors(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Finds the handler of every method called on the server."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        unary: dict[str, tuple[Answer, Any]] = {
            "Publisher/CreateTopic": (self._create_topic, types.Topic),
            "Publisher/Publish": (self._publish, types.PublishRequest),
            "Publisher/GetTopic": (self._get_topic, types.GetTopicRequest),
            "Subscriber/CreateSubscription": (self._create_subscription, types.Subscription),
            "Subscriber/GetSubscription": (self._get_subscription, types.GetSubscriptionRequest),
            "Subscriber/ListSubscriptions": (self._list_subscriptions, types.ListSubscriptionsRequest),
            "Subscriber/DeleteSubscription": (self._delete_subscription, types.DeleteSubscriptionRequest),
            "Subscriber/ModifyAckDeadline": (self._modify_ack_deadline, types.ModifyAckDeadlineRequest),
            "Subscriber/Acknowledge": (self._acknowledge, types.AcknowledgeRequest),
            "Subscriber/Pull": (self._pull, types.PullRequest),
        }
        self._handlers: dict[str, grpc.RpcMethodHandler] = {
            f"/google.pubsub.v1.{name}": grpc.unary_unary_rpc_method_handler(
                _refusing(answer), request_deserializer=wrapper.pb().FromString, response_serializer=_serialize
            )
            for name, (answer, wrapper) in unary.items()
        }
        self._handlers["/google.pubsub.v1.Subscriber/StreamingPull"] = grpc.stream_stream_rpc_method_handler(
            self._streaming_pull,
            request_deserializer=_StreamingPullRequest.FromString,
            response_serializer=_serialize,
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        return self._handlers.get(method) or _refusal_of(method)

    async def _create_topic(self, request: Any, context: Any) -> Any:
        return await self._hub.create_topic(request)

    async def _get_topic(self, request: Any, context: Any) -> Any:
        return self._hub.topic(request.topic)

    async def _publish(self, request: Any, context: Any) -> Any:
        rules.check_messages(request)
        return _PublishResponse(message_ids=await self._hub.publish(request.topic, request.messages))

    async def _create_subscription(self, request: Any, context: Any) -> Any:
        return await self._hub.create_subscription(request)

    async def _get_subscription(self, request: Any, context: Any) -> Any:
        return self._hub.subscription(request.subscription)

    async def _list_subscriptions(self, request: Any, context: Any) -> Any:
        # All on one page, whatever size was asked for.
        return _ListSubscriptionsResponse(subscriptions=self._hub.subscriptions(request.project))

    async def _delete_subscription(self, request: Any, context: Any) -> Any:
        await self._hub.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    async def _acknowledge(self, request: Any, context: Any) -> Any:
        if not request.ack_ids:
            raise rules.invalid("No ack ids specified.")
        self._hub.acknowledge(request.subscription, request.ack_ids)
        return empty_pb2.Empty()

    async def _modify_ack_deadline(self, request: Any, context: Any) -> Any:
        if not request.ack_ids:
            raise rules.invalid("No ack ids specified.")
        seconds = request.ack_deadline_seconds
        self._hub.modify_deadlines(request.subscription, [(ack_id, seconds) for ack_id in request.ack_ids])
        return empty_pb2.Empty()

    async def _pull(self, request: Any, context: Any) -> Any:
        if request.max_messages <= 0:
            raise rules.invalid("The value for max_messages must be greater than 0.")
        name = request.subscription
        receiver = self._hub.receiver(name)
        deliveries: list[Delivery] = []
        try:
            if request.return_immediately:
                deliveries = self._hub.take_now(name, receiver, max_messages=request.max_messages)
            else:
                deliveries = await self._pull_patiently(name, receiver, request.max_messages, context)
        finally:
            self._hub.dismiss(name, receiver)
        response = _PullResponse()
        _fill(response.received_messages, deliveries)
        return response

    async def _pull_patiently(self, name: str, receiver: Receiver, max_messages: int, context: Any) -> list[Delivery]:
        patience = _PULL_WAIT_SECONDS
        remaining = context.time_remaining()
        if remaining is not None:
            patience = max(0.0, min(patience, remaining - _PULL_MARGIN_SECONDS))
        deadline = asyncio.timeout(patience)
        try:
            async with deadline:
                return await self._hub.next_batch(name, receiver, deadline_seconds=None, max_messages=max_messages)
        except TimeoutError:
            return []
        except StreamClosedError as closed:
            raise closed.reason or _stopping() from None

    async def _streaming_pull(self, _: Any, context: Any) -> None:
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        try:
            stream = _Stream(self._hub, first)
        except rules.RefusedError as refusal:
            await context.abort(refusal.code, refusal.sentence)
        await stream.serve(context)


class _Stream:
    """One StreamingPull call: a task that listens to the client beside the loop that sends."""

    def __init__(self, hub: Hub, first: Any) -> None:
        rules.check_name(first.subscription, "subscriptions")
        rules.check_stream_deadline(first.stream_ack_deadline_seconds)
        self._hub = hub
        self._name: str = first.subscription
        self._deadline_seconds: int = first.stream_ack_deadline_seconds
        # Of bytes the client counts how many it holds.
        self._receiver = hub.receiver(self._name, max_messages=first.max_outstanding_messages)
        try:
            self._apply(first)
        except rules.RefusedError:
            hub.dismiss(self._name, self._receiver)
            raise

    async def serve(self, context: Any) -> None:
        """Send what the subscription owes until one side ends the stream."""
        listener = asyncio.get_running_loop().create_task(self._listen(context))
        try:
            await self._send(context)
        except StreamClosedError as closed:
            refusal = closed.reason
            if refusal is None and listener.done() and not listener.cancelled():
                refusal = listener.result()
                if refusal is None:
                    return
            refusal = refusal or _stopping()
            await context.abort(refusal.code, refusal.sentence)
        except rules.RefusedError as refusal:
            await context.abort(refusal.code, refusal.sentence)
        except LedgerWriteError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            listener.cancel()
            self._hub.dismiss(self._name, self._receiver)

    async def _send(self, context: Any) -> None:
        while True:
            deliveries = await self._hub.next_batch(self._name, self._receiver, deadline_seconds=self._deadline_seconds)
            response = _StreamingPullResponse()
            _fill(response.received_messages, deliveries)
            try:
                await context.write(response)
            except BaseException:
                self._hub.put_back(self._name, [delivery.owed for delivery in deliveries])
                raise

    async def _listen(self, context: Any) -> rules.RefusedError | None:
        """Obey the client's later requests; returns why the stream must end, or None when the client ended it."""
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                if request.subscription:
                    raise rules.invalid("Only the first request of a stream may name the subscription.")
                if request.stream_ack_deadline_seconds:
                    rules.check_stream_deadline(request.stream_ack_deadline_seconds)
                    self._deadline_seconds = request.stream_ack_deadline_seconds
                self._apply(request)
        except rules.RefusedError as refusal:
            return refusal
        finally:
            self._hub.dismiss(self._name, self._receiver)
        return None

    def _apply(self, request: Any) -> None:
        if request.ack_ids:
            self._hub.acknowledge(self._name, request.ack_ids)
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise rules.invalid("modify_deadline_ack_ids and modify_deadline_seconds must be equally long.")
        if request.modify_deadline_ack_ids:
            self._hub.modify_deadlines(
                self._name, list(zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True))
            )


def _refusing(answer: Answer) -> Answer:
    """The answer, with refusals turned into gRPC statuses."""

    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await answer(request, context)
        except rules.RefusedError as refusal:
            await context.abort(refusal.code, refusal.sentence)
        except LedgerWriteError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    return guarded


def _refusal_of(method: str) -> grpc.RpcMethodHandler:
    feature = method.rpartition(".")[2].replace("/", ".")

    async def refuse(request: Any, context: Any) -> None:
        refusal = rules.unsupported(feature)
        await context.abort(refusal.code, refusal.sentence)

    return grpc.unary_unary_rpc_method_handler(refuse)


def _stopping() -> rules.RefusedError:
    return rules.RefusedError(grpc.StatusCode.UNAVAILABLE, "The local Pub/Sub server is stopping.")


def _serialize(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _fill(received: Any, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        entry = received.add()
        entry.ack_id = delivery.ack_id
        entry.message.MergeFromString(delivery.owed.body)
