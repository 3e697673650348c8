"""Reads the times of executions, as gateways write them, as instants. No socket, no clock.

Gateways write times in many forms, depending on the zone chosen at login. The client libraries read some of these in
their own host's zone and cannot read others: ib_insync issues 287 and 671, ib_async issues 161 and 230, vnpy_ib issue
27.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

_FORM = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)(?P<between>-|T|\s+)"
    r"(?P<hour>\d\d?):(?P<minute>\d\d):(?P<second>\d\d)(?:\.\d+)?\s*(?P<zone>.*)",
    re.ASCII | re.DOTALL,
)
_OFFSET = re.compile(r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d\d?)(?::?(?P<minutes>\d\d))?", re.ASCII)
_EPOCH = re.compile(r"\d{9,10}", re.ASCII)
_FIRST_YEAR, _LAST_YEAR = 2000, 2200
_SKEW = timedelta(seconds=60)
"""How far the gateway's clock may be ahead of ours when choosing between two instants."""
_AHEAD = timedelta(minutes=5)
"""A time without a zone that is further in the future than this was read in the wrong zone."""
_STEP_OF_OFFSETS = timedelta(minutes=15)
_LONGEST_OFFSET = timedelta(hours=15)

_NAMES: dict[str, tuple[str, ...]] = {
    # Old names of the zone database, which some hosts' copies do not have.
    "US/EASTERN": ("America/New_York",),
    "US/CENTRAL": ("America/Chicago",),
    "US/MOUNTAIN": ("America/Denver",),
    "US/PACIFIC": ("America/Los_Angeles",),
    "GB-EIRE": ("Europe/London",),
    "GB": ("Europe/London",),
    "HONGKONG": ("Asia/Hong_Kong",),
    "JAPAN": ("Asia/Tokyo",),
    "SINGAPORE": ("Asia/Singapore",),
    "PRC": ("Asia/Shanghai",),
    "MET": ("Europe/Paris",),
    "CET": ("Europe/Paris",),
    "EET": ("Europe/Athens",),
    "WET": ("Europe/Lisbon",),
    # Abbreviations. Those in use in several places stand for each of them, and for those that gateways also write in
    # summer for local time.
    "EST": ("America/New_York", "-05:00"),
    "EST5EDT": ("America/New_York",),
    "CST": ("America/Chicago", "-06:00", "Asia/Shanghai"),
    "CST6CDT": ("America/Chicago",),
    "MST": ("America/Denver", "-07:00"),
    "MST7MDT": ("America/Denver",),
    "PST": ("America/Los_Angeles", "-08:00"),
    "PST8PDT": ("America/Los_Angeles",),
    "EDT": ("-04:00",),
    "CDT": ("-05:00",),
    "MDT": ("-06:00",),
    "PDT": ("-07:00",),
    "BST": ("+01:00",),
    "IST": ("Asia/Kolkata", "Asia/Jerusalem", "Europe/Dublin"),
    "MEST": ("+02:00",),
    "MESZ": ("+02:00",),
    "MEZ": ("Europe/Berlin", "+01:00"),
    "CEST": ("+02:00",),
    "EEST": ("+03:00",),
    "MSK": ("Europe/Moscow",),
    "JST": ("Asia/Tokyo",),
    "KST": ("Asia/Seoul",),
    "HKT": ("Asia/Hong_Kong",),
    "SGT": ("Asia/Singapore",),
    "AEST": ("Australia/Sydney", "+10:00"),
    "AEDT": ("+11:00",),
    "NZST": ("Pacific/Auckland", "+12:00"),
    "NZDT": ("+13:00",),
    # As gateways in other languages and on Windows write them.
    "EASTERN STANDARD TIME": ("America/New_York",),
    "CENTRAL STANDARD TIME": ("America/Chicago",),
    "MOUNTAIN STANDARD TIME": ("America/Denver",),
    "PACIFIC STANDARD TIME": ("America/Los_Angeles",),
    "GREENWICH MEAN TIME": ("Europe/London", "+00:00"),
    "CHINA STANDARD TIME": ("Asia/Shanghai",),
    "HONG KONG TIME": ("Asia/Hong_Kong",),
    "INDIA STANDARD TIME": ("Asia/Kolkata",),
    "JAPAN STANDARD TIME": ("Asia/Tokyo",),
    "中国标准时间": ("Asia/Shanghai",),
    "中國標準時間": ("Asia/Shanghai",),
    "香港时间": ("Asia/Hong_Kong",),
    "香港時間": ("Asia/Hong_Kong",),
    "日本標準時": ("Asia/Tokyo",),
    "印度标准时间": ("Asia/Kolkata",),
    "UTC": ("+00:00",),
    "GMT": ("+00:00",),
    "UNIVERSAL": ("+00:00",),
    "ZULU": ("+00:00",),
    "Z": ("+00:00",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When an execution took place, as far as its text says."""

    at: datetime
    is_estimated: bool = False
    trouble: str = ""
    """Why it is only an estimate; empty if it was read with certainty."""


@dataclass(frozen=True, slots=True)
class GatewayZone:
    """The zone in which a gateway writes times, as its greeting shows: by name, and by the offset of its clock from
    UTC."""

    name: str = ""
    offset: timedelta | None = None
    at: datetime | None = None

    def narrowed(self, name: str, zones: list[tzinfo]) -> list[tzinfo]:
        """Of the zones that a name may stand for, those that match the gateway's clock, if the name is the gateway's
        own zone."""
        at = self.at
        if at is None or self.offset is None or name != self.name:
            return zones
        return [zone for zone in zones if at.astimezone(zone).utcoffset() == self.offset] or zones

    @classmethod
    def greeted(cls, reported: str, now: datetime) -> GatewayZone:
        """From the time in the greeting (`20261121 09:30:00 EST`), which is the gateway's present time. Empty if
        that is no time."""
        found = _FORM.fullmatch(reported.strip())
        local = None if found is None or found["between"] == "-" else _local(found)
        if found is None or local is None:
            return cls()
        ahead = local.replace(tzinfo=UTC) - now
        offset = round(ahead / _STEP_OF_OFFSETS) * _STEP_OF_OFFSETS
        is_offset = abs(offset) <= _LONGEST_OFFSET and abs(ahead - offset) <= _STEP_OF_OFFSETS / 3
        return cls(found["zone"].strip(), offset if is_offset else None, now)


def read(reported: str, *, received_at: datetime, zone: str = "", gateway: GatewayZone = GatewayZone()) -> Moment:
    """The instant that the gateway means. `YYYYMMDD-HH:MM:SS` is UTC by its form. A time without a zone is in
    `zone`, if set, else in the gateway's zone. If several instants are possible (an hour repeated or skipped by a
    clock change, `CST`), it is the latest that is not after `received_at`. A time that cannot be read, or names no
    zone and would be in the future, becomes `received_at`. All three are marked as estimated."""
    text = reported.strip()
    if _EPOCH.fullmatch(text):
        return Moment(at=datetime.fromtimestamp(int(text), UTC))
    found = _FORM.fullmatch(text)
    local = None if found is None else _local(found)
    if found is None or local is None:
        return Moment(at=received_at, is_estimated=True, trouble=f"its time is {_shown(reported)}")
    named = found["zone"].strip()
    if not named and found["between"] == "-":
        return Moment(at=local.replace(tzinfo=UTC))
    wanted = named or zone
    name = wanted or gateway.name
    zones = gateway.narrowed(name, _zones(name))
    if zones:
        moment = _chosen(local, zones, reported, received_at)
        if named or moment.at <= received_at + _AHEAD:
            return moment
        words = f"its time {_shown(reported)} names no zone, and in {name} it would be in the future"
        return Moment(at=received_at, is_estimated=True, trouble=words)
    if gateway.offset is not None and wanted in ("", gateway.name):
        at = (local - gateway.offset).replace(tzinfo=UTC)
        words = f"its time is {_shown(reported)}, read by the gateway's clock, which was {_offset_text(gateway.offset)}"
        return Moment(at=at, is_estimated=True, trouble=words)
    lack = "names no zone" if not named else "is in a zone that is not known"
    return Moment(at=received_at, is_estimated=True, trouble=f"its time {_shown(reported)} {lack}")


def _local(found: re.Match[str]) -> datetime | None:
    try:
        year, month, day, hour, minute, second = (
            int(found[name]) for name in ("year", "month", "day", "hour", "minute", "second")
        )
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC).replace(tzinfo=None)
    except ValueError:
        return None
    return local if _FIRST_YEAR <= local.year < _LAST_YEAR else None


def _zones(name: str) -> list[tzinfo]:
    """The zones that the name may stand for; empty if it is unknown."""
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        delta = timedelta(hours=int(offset["hours"]), minutes=int(offset["minutes"] or 0))
        return [] if delta > _LONGEST_OFFSET else [timezone(-delta if offset["sign"] == "-" else delta)]
    zones = []
    for each in _NAMES.get(name.upper(), (name,)):
        if each[:1] in ("+", "-"):
            zones += _zones(each)
            continue
        try:
            zones.append(ZoneInfo(each))
        except (LookupError, ValueError, OSError):  # no such key, an invalid name, or a folder of the database
            return []
    return zones


def _chosen(local: datetime, zones: list[tzinfo], reported: str, received_at: datetime) -> Moment:
    possible = sorted({local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for zone in zones for fold in (0, 1)})
    if len(possible) == 1:
        return Moment(at=possible[0])
    past = [each for each in possible if each <= received_at + _SKEW]
    at = min(past[-1] if past else possible[0], received_at)
    return Moment(
        at=at, is_estimated=True, trouble=f"its time {_shown(reported)} may be any of {len(possible)} instants"
    )


def _offset_text(offset: timedelta) -> str:
    minutes = int(offset / timedelta(minutes=1))
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _shown(reported: str) -> str:
    return repr(reported[:60])
