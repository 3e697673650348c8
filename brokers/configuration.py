"""An account's settings as adapters read them: fields with types and limits, and everything that is wrong with them said at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from brokers.rate import RateLimit, limits

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite_number": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "text",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "value_error": "{error}",
}
"""By the beginning of pydantic's error type: what the setting must be."""


class Wrong(ValueError):
    """Raised by a field's validator with a whole sentence; the words of a plain ValueError say what the setting must be."""


def not_a_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _as_time(value: object) -> time:
    try:
        found = value if isinstance(value, time) else time.fromisoformat(str(value).strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None:
        raise ValueError("a time like 23:45")
    return found


def _as_zone(value: object) -> str:
    try:
        return ZoneInfo(str(value).strip()).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone like America/New_York") from None


Whole = Annotated[int, BeforeValidator(not_a_flag)]
Number = Annotated[float, BeforeValidator(not_a_flag), Field(allow_inf_nan=False)]
TimeOut = Annotated[Number, Field(ge=0.001, le=86_400)]
Amount = Annotated[Decimal, BeforeValidator(not_a_flag), Field(ge=0, allow_inf_nan=False)]
Calls = Annotated[Whole, Field(ge=1, le=10_000_000)]
TimeOfDay = Annotated[time, BeforeValidator(_as_time)]
Zone = Annotated[str, BeforeValidator(_as_zone)]


class AccountConfiguration(BaseModel):
    """What every adapter needs. An adapter adds its fields; times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True, hide_input_in_errors=True)

    account_id: str

    @classmethod
    def of(cls, config: Mapping[str, object], *, broker: str) -> Self:
        """The settings in `config`; None and an empty text are as good as none, and keys without a field are not looked at.

        Raises ValueError naming all that is wrong, and no value of a text: it may be a secret.
        """
        try:
            return cls.model_validate(_without_empty(config))
        except ValidationError as exc:
            wrong = "; ".join(_sentence(error) for error in exc.errors(include_url=False))
        raise ValueError(f"The {broker} account's settings: {wrong}")

    @classmethod
    def wrong_in(cls, config: Mapping[str, object]) -> dict[str, str]:
        """What `of` would refuse: a sentence for each key; empty if nothing is."""
        try:
            cls.model_validate(_without_empty(config))
        except ValidationError as exc:
            return {str(error["loc"][0]): _sentence(error) for error in exc.errors(include_url=False)}
        return {}


class MeteredConfiguration(AccountConfiguration):
    """For a broker that counts calls: order calls are placing and cancelling, the others are questions. None: no such limit of ours."""

    order_calls_per_second: Calls
    order_calls_per_minute: Calls | None = None
    order_calls_per_day: Calls | None = None
    order_reserve_percent: Whole = Field(20, ge=0, le=90)
    """Of the order calls, for exits and first cancels alone, and half of that for exits."""
    other_calls_per_second: Calls
    other_calls_per_minute: Calls | None = None
    other_calls_per_day: Calls | None = None

    @property
    def order_limits(self) -> tuple[RateLimit, ...]:
        return limits(
            per_second=self.order_calls_per_second,
            per_minute=self.order_calls_per_minute,
            per_day=self.order_calls_per_day,
            reserve_percent=self.order_reserve_percent,
        )

    @property
    def other_limits(self) -> tuple[RateLimit, ...]:
        return limits(
            per_second=self.other_calls_per_second,
            per_minute=self.other_calls_per_minute,
            per_day=self.other_calls_per_day,
        )


def _without_empty(config: Mapping[str, object]) -> dict[str, object]:
    return {
        key: value
        for key, value in config.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


def _sentence(error: Mapping[str, Any]) -> str:
    key, kind, value = ".".join(map(str, error["loc"])), error["type"], error["input"]
    if kind == "missing":
        return f"{key} is missing"
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return str(cause)
    begin = max((begin for begin in _WORDS if kind.startswith(begin)), key=len, default=None)
    if begin is None:
        return f"{key}: {error['msg']}"
    words = _WORDS[begin].format(**error.get("ctx", {}))
    return f"{key} must be {words}, not {type(value).__name__ if begin == 'string' else repr(value)}"
