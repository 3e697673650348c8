"""The least that a durable order loop can do: receive, insert, two compare-and-set updates, publish, acknowledge; no trading and no timing.

It starts its store and its Pub/Sub as the service does, by the same code, so that nothing but the work itself differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymongo
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from benchmarks import CONFIRMATIONS_TOPIC, ORDERS_TOPIC, PROJECT
from execution_service.app.embedded import TopicPlan, embedded_store, local_pubsub, make_private

READY = "Floor ready"
DATABASE = "floor"
COLLECTION = "orders"
FINAL_STATE = "FILLED"
_STATES = ("PENDING", "SUBMITTED", FINAL_STATE)
_OUTSTANDING_MESSAGES = 1000
_PUBLISH_LATENCY_SECONDS = 0.002


class LostUpdate(Exception):
    """A compare-and-set update found another state than the one that this loop had written."""


def handled(message: Message, orders: Collection[dict[str, Any]], publish: Callable[[bytes, str], Any]) -> None:
    """Everything about one message; it is acknowledged once its confirmation is published, and given back if anything fails."""
    try:
        body = json.loads(message.data)
        order_id = body["signal_id"]
        document = {"_id": order_id, "state": _STATES[0], "version": 1, "history": [_STATES[0]], "order": body}
        with contextlib.suppress(DuplicateKeyError):  # delivered again: what is stored is stored
            orders.insert_one(document)
        for version, (before, after) in enumerate(itertools.pairwise(_STATES), 1):
            change = {"$set": {"state": after}, "$inc": {"version": 1}, "$push": {"history": after}}
            done = orders.update_one({"_id": order_id, "version": version, "state": before}, change)
            if done.matched_count != 1 and message.delivery_attempt in (None, 0, 1):
                raise LostUpdate(order_id)
        confirmation = publish(json.dumps({"signal_id": order_id, "status": FINAL_STATE}).encode(), order_id)
    except Exception as exc:  # noqa: BLE001  one message must not end the loop; the run's own count shows that it is missing
        print(f"Given back: {type(exc).__name__}: {exc}", flush=True)
        message.nack()
        return
    confirmation.add_done_callback(lambda sent: message.nack() if sent.exception() else message.ack())


@contextlib.contextmanager
def running(mongodb_uri: str, pubsub_host: str, workers: int) -> Iterator[None]:
    """The loop on Google's own threads, `workers` of them."""
    os.environ["PUBSUB_EMULATOR_HOST"] = pubsub_host  # Google's client looks there and nowhere else
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongodb_uri, tz_aware=True)
    publisher = pubsub_v1.PublisherClient(
        batch_settings=pubsub_v1.types.BatchSettings(max_messages=100, max_latency=_PUBLISH_LATENCY_SECONDS)
    )
    subscriber = pubsub_v1.SubscriberClient()
    topic = publisher.topic_path(PROJECT, CONFIRMATIONS_TOPIC)
    orders = client[DATABASE][COLLECTION]

    def publish(data: bytes, order_id: str) -> Any:
        return publisher.publish(topic, data, signal_id=order_id, status=FINAL_STATE)

    pull = subscriber.subscribe(
        subscriber.subscription_path(PROJECT, f"{ORDERS_TOPIC}-sub"),
        lambda message: handled(message, orders, publish),
        flow_control=pubsub_v1.types.FlowControl(max_messages=_OUTSTANDING_MESSAGES),
        scheduler=ThreadScheduler(ThreadPoolExecutor(workers)),
    )
    try:
        yield
    finally:
        pull.cancel()
        publisher.stop()
        client.close()


async def serve(data_dir: Path, workers: int, servers: tuple[str, str] | None = None) -> None:
    """Until SIGTERM or SIGINT. `servers`: the URI of the store and the address of the Pub/Sub that are to be used; None: it starts its own.
    Raises EmbeddedPartFailed."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    topics = (ORDERS_TOPIC, CONFIRMATIONS_TOPIC)
    plan = TopicPlan(PROJECT, topics, tuple((f"{topic}-sub", topic) for topic in topics))
    make_private(data_dir)
    async with contextlib.AsyncExitStack() as own:
        if servers is None:
            pubsub_host = await own.enter_async_context(local_pubsub(data_dir, plan))
            mongodb_uri = await own.enter_async_context(embedded_store(data_dir))
        else:
            mongodb_uri, pubsub_host = servers
        with running(mongodb_uri, pubsub_host, workers):
            where = {"mongodb_uri": mongodb_uri, "pubsub_emulator_host": pubsub_host, "pid": os.getpid()}
            _tell(data_dir / "endpoints.json", where)
            print(READY, flush=True)
            await stop.wait()


def _tell(path: Path, where: dict[str, Any]) -> None:
    path.write_text(json.dumps(where), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the store and of Pub/Sub")
    parser.add_argument("--workers", type=int, default=1, help="threads that handle messages (default: %(default)s)")
    parser.add_argument("--mongodb-uri", help="a store that is there already (default: it starts its own)")
    parser.add_argument("--pubsub-host", help="a Pub/Sub that is there already, with --mongodb-uri")
    options = parser.parse_args()
    servers = (options.mongodb_uri, options.pubsub_host) if options.mongodb_uri and options.pubsub_host else None
    asyncio.run(serve(options.data, options.workers, servers))
    sys.stdout.flush()
    # The client library's threads may linger after their pull was cancelled, and nothing is left to be saved.
    os._exit(0)


if __name__ == "__main__":
    main()
