"""The quick server in memory answers as mongomock does, in everything that the store uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import mongomock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from tests.fakes.mongo import Collection, Mongo

NOW = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
IDS = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(0, 3)
VALUES = st.one_of(SMALL, st.sampled_from(["x", "y"]), st.none(), st.just(NOW), st.just(NOW + timedelta(seconds=1)))
DOCUMENTS = st.fixed_dictionaries(
    {"_id": IDS, "unique": SMALL},
    optional={
        "n": VALUES,
        "tags": st.lists(st.sampled_from(["p", "q", "r"]), max_size=3),
        "inner": st.fixed_dictionaries({"n": SMALL}, optional={"m": VALUES}),
        "events": st.lists(SMALL, max_size=2),
    },
)
QUERIES = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"_id": IDS}),
    st.fixed_dictionaries({"_id": st.fixed_dictionaries({"$in": st.lists(IDS, max_size=3)})}),
    st.fixed_dictionaries({"n": VALUES}),
    st.fixed_dictionaries({"n": st.fixed_dictionaries({"$gt": st.one_of(SMALL, st.just(NOW))})}),
    st.fixed_dictionaries({"n": st.fixed_dictionaries({"$not": st.fixed_dictionaries({"$gte": SMALL})})}),
    st.fixed_dictionaries({"tags": st.sampled_from(["p", "q"])}),
    st.fixed_dictionaries({"tags": st.fixed_dictionaries({"$in": st.lists(st.sampled_from(["p", "r"]), max_size=2)})}),
    st.fixed_dictionaries({"inner.n": SMALL, "_id": IDS}),
    st.fixed_dictionaries({"$or": st.just([{"n": 1}, {"inner.n": {"$in": [1, 2]}}])}),
    st.fixed_dictionaries({"$nor": st.just([{"n": 1, "_id": {"$in": ["a", "b"]}}, {"inner.n": 2}])}),
)
UPDATES = st.one_of(
    st.fixed_dictionaries({"$set": st.fixed_dictionaries({"n": VALUES, "inner.m": SMALL})}),
    st.fixed_dictionaries({"$set": st.fixed_dictionaries({"unique": SMALL})}),
    st.fixed_dictionaries({"$inc": st.fixed_dictionaries({"inner.n": SMALL})}),
    st.fixed_dictionaries({"$max": st.fixed_dictionaries({"inner.n": SMALL})}),
    st.fixed_dictionaries({"$addToSet": st.fixed_dictionaries({"tags": st.sampled_from(["p", "z"])})}),
    st.fixed_dictionaries({"$set": st.fixed_dictionaries({"n": SMALL}), "$setOnInsert": st.just({"made": True})}),
)
CALLS = st.one_of(
    st.tuples(st.just("insert_one"), DOCUMENTS),
    st.tuples(st.just("insert_many"), st.lists(DOCUMENTS, min_size=1, max_size=3)),
    st.tuples(st.just("update_one"), QUERIES, UPDATES),
    st.tuples(st.just("update_many"), QUERIES, UPDATES),
    st.tuples(st.just("upsert"), IDS, UPDATES),
    st.tuples(st.just("replace_one"), IDS, DOCUMENTS),
    st.tuples(st.just("find"), QUERIES),
)


def make(collection: Any, call: tuple[Any, ...]) -> Any:
    """What comes of a call, in words that both servers share."""
    name, *args = call
    try:
        if name == "insert_many":
            return len(collection.insert_many(args[0], ordered=False).inserted_ids)
        if name == "insert_one":
            return collection.insert_one(args[0]).inserted_id
        if name == "upsert":
            return collection.update_one({"_id": args[0]}, args[1], upsert=True).matched_count
        if name == "replace_one":
            fresh = {key: value for key, value in args[1].items() if key != "_id"}
            return collection.replace_one({"_id": args[0]}, fresh).matched_count
        if name == "find":
            return sorted((d["_id"] for d in collection.find(args[0])), key=str)
        return getattr(collection, name)(*args).matched_count
    except DuplicateKeyError:
        return "duplicate"
    except BulkWriteError as exc:
        return exc.details["nInserted"], [e["index"] for e in exc.details["writeErrors"]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CALLS, max_size=8))
def test_it_answers_as_mongomock_does(calls: list[tuple[Any, ...]]) -> None:
    mine: Collection = Mongo()["trading"]["things"]
    theirs = mongomock.MongoClient(tz_aware=True)["trading"]["things"]
    for collection in (mine, theirs):
        collection.create_index([("unique", 1)], unique=True)
    for call in calls:
        assert make(mine, call) == make(theirs, call), call
    assert {d["_id"]: d for d in mine.find()} == {d["_id"]: d for d in theirs.find()}


def test_an_array_grows_by_a_number_in_the_path_and_shrinks_by_a_pull() -> None:
    things = Mongo()["trading"]["things"]
    things.insert_one({"_id": 1, "events": ["a"], "lookup": ["p", "q", "r"]})
    things.update_one({"_id": 1}, {"$set": {"events.1": "b"}, "$pull": {"lookup": {"$in": ["p", "r"]}}})
    things.update_one({"_id": 1}, {"$pull": {"lookup": "nothing"}})
    assert things.find_one({"_id": 1}) == {"_id": 1, "events": ["a", "b"], "lookup": ["q"]}


def test_a_unique_index_with_a_condition_holds_for_what_fulfils_it() -> None:
    things = Mongo()["trading"]["things"]
    things.create_index("place", unique=True, partialFilterExpression={"state": "OPEN"})
    things.insert_one({"_id": 1, "place": "x", "state": "CLOSED"})
    things.insert_one({"_id": 2, "place": "x", "state": "OPEN"})
    with pytest.raises(DuplicateKeyError):
        things.insert_one({"_id": 3, "place": "x", "state": "OPEN"})
    things.update_one({"_id": 2}, {"$set": {"state": "CLOSED"}})
    things.insert_one({"_id": 3, "place": "x", "state": "OPEN"})


def test_what_was_read_is_a_copy() -> None:
    things = Mongo()["trading"]["things"]
    things.insert_one({"_id": 1, "inner": {"n": [1]}})
    found = things.find_one({"_id": 1})
    assert found is not None
    found["inner"]["n"].append(2)
    assert things.find_one({"_id": 1}) == {"_id": 1, "inner": {"n": [1]}}


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"$set": {"text.1": "b"}}, 28),
        ({"$set": {"none.1": "b"}}, 28),
        ({"$max": {"text.world": 1}}, 28),
        ({"$set": {"list.word": "b"}}, 28),
        ({"$inc": {"text": 1}}, 14),
        ({"$addToSet": {"text": "b"}}, 2),
        ({"$pull": {"text": "b"}}, 2),
    ],
)
def test_an_update_that_does_not_go_with_the_document_is_refused_and_changes_nothing(
    update: dict[str, Any], code: int
) -> None:
    things = Mongo()["trading"]["things"]
    before = {"_id": 1, "n": 1, "text": "odd", "none": None, "list": []}
    things.insert_one(before)
    with pytest.raises(WriteError) as refused:
        things.update_one({"_id": 1}, {"$set": {"n": 2}, **update} if "$set" not in update else update)
    assert refused.value.code == code
    with pytest.raises(BulkWriteError) as broken:
        things.bulk_write([UpdateOne({"_id": 1}, update)])
    assert [error["code"] for error in broken.value.details["writeErrors"]] == [code]
    assert things.find_one({"_id": 1}) == before


def test_an_element_of_a_list_that_is_gone_or_too_short_is_written_all_the_same() -> None:
    """As a server does: nobody is told, and what comes of it is no list, or one with gaps."""
    things = Mongo()["trading"]["things"]
    things.insert_one({"_id": 1, "short": []})
    things.update_one({"_id": 1}, {"$set": {"gone.1": "b", "short.1": "b"}})
    assert things.find_one({"_id": 1}) == {"_id": 1, "gone": {"1": "b"}, "short": [None, "b"]}


def test_what_is_asked_again_is_found_anew_after_each_write() -> None:
    things = Mongo()["trading"]["things"]
    query = {"n": {"$gt": 1}}
    found = []
    for write in (
        lambda: things.insert_one({"_id": 1, "n": 2}),
        lambda: things.insert_many([{"_id": 2, "n": 2}]),
        lambda: things.update_one({"_id": 1}, {"$inc": {"n": -1}}),
        lambda: things.replace_one({"_id": 1}, {"n": 5}),
        lambda: things.alter(2, "n", 0),
        lambda: things.leave({"_id": 3, "n": 9}),
        lambda: things.remove(1),
    ):
        write()
        found.append([document["_id"] for document in things.find(query)])
    assert found == [[1], [1, 2], [2], [1, 2], [1], [1, 3], [3]]


def test_a_document_is_put_in_the_place_of_another_and_not_changed() -> None:
    things = Mongo()["trading"]["things"]
    things.insert_one({"_id": 1, "inner": {"n": [1]}, "tags": ["p"]})
    before = things.documents[1]
    things.update_one({"_id": 1}, {"$set": {"inner.n.0": 2, "inner.m": 1}, "$pull": {"tags": "p"}})
    things.alter(1, "tags", "odd")
    assert before == {"_id": 1, "inner": {"n": [1]}, "tags": ["p"]}
    assert things.documents[1] == {"_id": 1, "inner": {"n": [2], "m": 1}, "tags": "odd"}
