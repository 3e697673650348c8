"""Frozen dataclasses as plain documents and back, by their own annotations: exact decimals as text, times as datetimes; knows no database.

None is not written; what is missing has its default; fields that are not known are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A dataclass as a dict, a tuple or frozenset as a list, and what these are made of."""
    match value:
        case None | bool() | int() | datetime():
            return value
        case Enum():
            return value.value
        case str():
            return storable(value)
        case Decimal():
            return str(value)
        case date():
            return value.isoformat()
        case tuple() | frozenset():
            return [encode(item) for item in (sorted(value) if isinstance(value, frozenset) else value)]
    cls = type(value)
    names = _FIELD_NAMES.get(cls)
    if names is None:
        names = _FIELD_NAMES[cls] = tuple(f.name for f in fields(value))
    return {name: encode(v) for name in names if (v := getattr(value, name)) is not None}


_FIELD_NAMES: dict[type, tuple[str, ...]] = {}


def storable(text: str) -> str:
    """With a lone surrogate (half a character, from a broker's text) in its backslash form: no database stores it
    otherwise."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


_Reader: TypeAlias = Callable[[Any], Any]
_READERS: dict[Any, _Reader] = {}


def decode(cls: type[T], document: Mapping[str, Any]) -> T:
    """Raises TypeError, ValueError or ArithmeticError for a value that `encode` never wrote."""
    readers = _READERS.get(cls)
    if readers is None:
        readers = _READERS[cls] = _class_reader(cls)
    return readers(document)  # type: ignore[no-any-return]


def _class_reader(cls: type[Any]) -> _Reader:
    hints = get_type_hints(cls)
    by_name = [(f.name, _reader(hints[f.name])) for f in fields(cls)]
    # None is not written; if the class has no default for the field, it is put back here.
    unwritten = {f.name: None for f in fields(cls) if NoneType in get_args(hints[f.name]) and f.default is MISSING}

    def read(document: Mapping[str, Any]) -> Any:
        return cls(**unwritten | {name: reader(document[name]) for name, reader in by_name if name in document})

    return read


def _reader(hint: Any) -> _Reader:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
        read = _reader(inner)
        return lambda value: None if value is None else read(value)
    if get_origin(hint) is tuple:
        read_item = _reader(get_args(hint)[0])
        return lambda value: tuple(read_item(item) for item in value)
    if hint is datetime:
        return read_moment
    if hint is date:
        return lambda value: date.fromisoformat(read_text(value))
    if hint is Decimal:
        return read_decimal
    if hint is str:
        return read_text
    if hint is int:
        return read_whole
    if hint is bool:
        return read_truth
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: decode(hint, value)
    return lambda value: value


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def read_whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def read_truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def read_decimal(value: Any) -> Decimal:
    number = Decimal(read_text(value))
    if not number.is_finite():
        raise ValueError(f"{value!r} is no number")
    return number


def read_moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no moment")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
