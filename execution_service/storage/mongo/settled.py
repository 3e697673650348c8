"""Order records that are over and told to everybody, as they were last read, so that only what has changed since is read again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from execution_service.core.views.record import is_for_good, lookup_keys
from execution_service.storage.ports.orders import Stored

MOST_REMEMBERED = 2000


class SettledRecords:
    """By our ids and by the names that they bear for good, those read last. A record grows by its version alone, and of one that is settled nothing
    is left to be told: at the same version it is the same. Whether it still is at that version only the server knows, which is why each question
    asks that; and by another name it would not give a record that has moved on and lost that name."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Stored] = OrderedDict()
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        """By a name that is borne for good: our ids of those that bear it."""

    def named(self, names: Iterable[str], *, without: Iterable[str] = ()) -> Mapping[str, Stored]:
        """By our ids, all but some: by names that may go away none."""
        ids = {order_id for name in names for order_id in self._ids.get(name, ())}.difference(without)
        for order_id in ids:
            self._by_id.move_to_end(order_id)
        return {order_id: self._by_id[order_id] for order_id in ids}

    def keep(self, stored: Iterable[Stored]) -> None:
        """Those of them that are settled."""
        for each in stored:
            order_id = each.order.order_id
            known = self._by_id.get(order_id)
            if each.is_unsettled or (known is not None and known.order.version >= each.order.version):
                continue
            self._forget(order_id)
            self._by_id[order_id] = each
            for name in filter(is_for_good, lookup_keys(each.order)):
                self._ids[name].add(order_id)
            if len(self._by_id) > MOST_REMEMBERED:
                self._forget(next(iter(self._by_id)))

    def _forget(self, order_id: str) -> None:
        known = self._by_id.pop(order_id, None)
        for name in () if known is None else filter(is_for_good, lookup_keys(known.order)):
            self._ids[name].discard(order_id)
            if not self._ids[name]:
                del self._ids[name]


def unless_known(known: Mapping[str, Stored]) -> dict[str, Any]:
    """As part of a query: without the records that are still at the version at which they are known."""
    by_version: defaultdict[int, list[str]] = defaultdict(list)
    for order_id, stored in known.items():
        by_version[stored.order.version].append(order_id)
    alike = [{"version": version, "_id": {"$in": sorted(ids)}} for version, ids in sorted(by_version.items())]
    return {"$nor": alike} if alike else {}
