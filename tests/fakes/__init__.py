"""The world outside the service, faked, one file for each of its sides; whoever tests the service needs `world_of`, and what its world is set to."""

from tests.fakes.broker import GatedBroker
from tests.fakes.clock import HandClock
from tests.fakes.people import RecordingNotifier
from tests.fakes.process import Died, Gate, Moment
from tests.fakes.pubsub import RecordingEvents, RecordingPublisher
from tests.fakes.store import DATABASE, FakeMongoClient
from tests.fakes.world import (
    ACCOUNT,
    BY_HAND,
    DOWN,
    IN_SEQUENCE,
    ONLY_A_TAG,
    RESTING,
    UNPROTECTED,
    AllAt,
    World,
    two_worlds,
    world_of,
)

__all__ = [
    "ACCOUNT",
    "BY_HAND",
    "DATABASE",
    "DOWN",
    "IN_SEQUENCE",
    "ONLY_A_TAG",
    "RESTING",
    "UNPROTECTED",
    "AllAt",
    "Died",
    "FakeMongoClient",
    "Gate",
    "GatedBroker",
    "HandClock",
    "Moment",
    "RecordingEvents",
    "RecordingNotifier",
    "RecordingPublisher",
    "World",
    "two_worlds",
    "world_of",
]
