"""The accounts, from `accounts.toml` or from what the brokers' own variables imply."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from brokers.factory import BrokerFactory
from brokers.manifest import Manifest
from brokers.registry import manifests, stand_in
from brokers.variables import (
    BrokerVariables,
    rooted,
)
from execution_service.app.settings.model import Environment, setting_names
from execution_service.app.settings.problems import Problems, cause
from execution_service.app.settings.sources import Sources
from execution_service.core.planning.targets import Mode

_SECRET_KEY = re.compile(r"secret|token|password|passphrase|api_?key|private_?key", re.IGNORECASE)
_NEAR_KEY_RATIO = 0.6
"""Lower, since an account has few keys and one that is none is refused anyhow."""
_OWN_KEYS = frozenset({"name", "broker", "live", "mode", "day_timezone"})
_STAND_IN = "(not known)"


class BrokerConfig(Mapping[str, object]):
    """What `BrokerFactory.create_broker` gets: plain values, secrets included, none of which its repr shows."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, key: str) -> object:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"BrokerConfig({', '.join(self._values)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account and the broker that serves it. `live`: its orders move real money. `zone`: of its trading day.

    An account in TRAINING at a broker that may be a real one cannot be made, wherever it comes from: ValueError."""

    account_id: str
    name: str
    broker: str
    live: bool
    config: Mapping[str, object] = field(repr=False)
    zone: tzinfo = UTC
    mode: Mode = Mode.PRODUCTION

    def __post_init__(self) -> None:
        manifest = manifests().get(self.broker)
        if self.mode is Mode.TRAINING and (manifest is None or not manifest.is_simulated or self.live):
            raise ValueError(f"account {self.account_id} is in mode TRAINING, and {self.broker} may be a real broker")


class AccountReading:
    """Reads the accounts, adding to `problems`; afterwards `references` has the variables that the file named."""

    def __init__(
        self,
        environment: Environment,
        brokers: Mapping[str, BrokerVariables],
        sources: Sources,
        problems: Problems,
    ) -> None:
        """`brokers`: each broker's own variables, by its name."""
        self._environment = environment
        self._brokers = brokers
        self._sources = sources
        self._problems = problems
        self.references: dict[str, str] = {}

    def accounts(self) -> dict[str, Account]:
        """By their ids; without those that cannot be used."""
        path = self._environment.accounts_file
        if not path.exists():
            if "ACCOUNTS_FILE" in self._sources:
                self._problems.add(f"ACCOUNTS_FILE names {path}, which does not exist.")
                return {}
            tables = self._implied_tables()
        else:
            tables = self._tables(path)
        read = (self._account(account_id, table) for account_id, table in tables.items())
        return {account.account_id: account for account in read if account is not None}

    def _implied_tables(self) -> dict[str, object]:
        """Without a file the brokers' own variables stand for one account each."""
        return {
            implied.account_id: {"broker": broker}
            for broker, manifest in manifests().items()
            if (implied := manifest.implied_account) is not None
            and any(name in self._sources for name in implied.variables)
        }

    def _tables(self, path: Path) -> dict[str, object]:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        except tomllib.TOMLDecodeError as exc:
            self._problems.add(f"{path} is not valid TOML: {exc}.")
            return {}
        except (OSError, UnicodeDecodeError) as exc:
            self._problems.add(f"{path} cannot be read: {cause(exc)}.")
            return {}
        for key in (key for key in document if key != "accounts"):
            self._problems.add(f"{path}: {key} is not known; allowed: tables called [accounts.ID].")
        tables = document.get("accounts", {})
        if not isinstance(tables, dict):
            self._problems.add(f"{path}: accounts must be a table, as in [accounts.my_account].")
            return {}
        return tables

    def _account(self, account_id: str, table: object) -> Account | None:
        where = f"Account {account_id!r}"
        if not account_id or account_id != account_id.strip() or not account_id.isprintable():
            self._problems.add(f"{where}: the id must be printable text without spaces at its ends.")
            return None
        if not isinstance(table, dict):
            self._problems.add(f"{where} must be a table, as in [accounts.{account_id}].")
            return None
        own = {key: value for key, value in table.items() if key not in _OWN_KEYS}
        manifest = self._manifest(where, table.get("broker"))
        name = table.get("name", account_id)
        if not isinstance(name, str) or not name.strip():
            self._problems.add(f"{where}: name must be text.")
            name = account_id
        zone = self._zone(where, table.get("day_timezone", "UTC"))
        mode = self._mode(where, table, manifest)
        is_practice = manifest is not None and manifest.is_simulated
        live = table.get("live", not is_practice)
        if not isinstance(live, bool):
            self._problems.add(f"{where}: live must be true or false.")
        elif manifest is not None and is_practice and live:
            self._problems.add(f"{where}: live is true, but {manifest.title} has no live account.")
        if self._environment.use_mock_broker and not (manifest is not None and manifest.is_stand_in):
            return replace(self._account_at(stand_in(), account_id, name, {}, live=False), zone=zone, mode=mode)
        resolved = self._resolved(where, own, manifest)
        if manifest is None:
            return None
        account = replace(self._account_at(manifest, account_id, name, resolved, live=live is True, own=own), zone=zone)
        if is_practice and live is False:
            account = replace(account, mode=mode)
        if not is_practice and "live" not in table:
            live = manifest.is_live_unless_said(account.config)
            account = replace(account, live=live)
        if not is_practice and isinstance(live, bool):
            self._check_live(where, manifest, live, account.config)
        self._check_keys(where, manifest, account, own, own.keys() - resolved.keys())
        return account

    def _zone(self, where: str, given: object) -> tzinfo:
        try:
            if isinstance(given, str):
                return UTC if given == "UTC" else ZoneInfo(given)
        except (
            ValueError,
            OSError,
            KeyError,
        ):  # no name of a zone, a folder of them, or one that this machine does not know
            pass
        self._problems.add(
            f"{where}: day_timezone {given!r} is not known here; allowed: a name of the tz database, as in America/New_York."
        )
        return UTC

    def _mode(self, where: str, table: Mapping[str, object], manifest: Manifest | None) -> Mode:
        """As the account's table says, else as its broker needs it."""
        is_for_training = manifest is not None and manifest.is_for_training_alone
        given = table.get("mode", Mode.TRAINING if is_for_training else Mode.PRODUCTION)
        if not isinstance(given, str) or given not in tuple(Mode):
            self._problems.add(f"{where}: mode must be {' or '.join(Mode)}.")
            return Mode.PRODUCTION
        mode = Mode(given)
        if manifest is not None and mode is Mode.TRAINING and not manifest.is_simulated:
            simulated = ", ".join(name for name, each in manifests().items() if each.is_simulated)
            self._problems.add(
                f"{where}: mode is TRAINING, but {manifest.title} is no simulated broker; allowed: {simulated}."
            )
        elif manifest is not None and mode is Mode.PRODUCTION and is_for_training:
            self._problems.add(f"{where}: mode is PRODUCTION, but {manifest.title} is for TRAINING alone.")
        return mode

    def _manifest(self, where: str, given: object) -> Manifest | None:
        known = ", ".join(manifests())
        if not isinstance(given, str):
            self._problems.add(f"{where}: broker is missing; known brokers: {known}.")
            return None
        manifest = manifests().get(given.strip().lower())
        if manifest is None:
            self._problems.add(f"{where}: broker {given!r} is not known; known brokers: {known}.")
        return manifest

    def _account_at(
        self,
        manifest: Manifest,
        account_id: str,
        name: str,
        resolved: Mapping[str, object],
        *,
        live: bool,
        own: Collection[str] = (),
    ) -> Account:
        data_dir = self._environment.data_dir
        return account_at(manifest, account_id, name, self._brokers, data_dir, resolved, live=live, own=own)

    def _resolved(self, where: str, own: Mapping[str, object], manifest: Manifest | None) -> dict[str, object]:
        secret_keys = frozenset() if manifest is None else manifest.secret_keys
        path_keys = frozenset() if manifest is None else manifest.path_keys
        resolved: dict[str, object] = {}
        for key, value in own.items():
            if isinstance(value, dict) and _is_reference(value):
                secret = self._referenced(where, key, value["env"])
                if secret is not None:
                    resolved[key] = secret
            elif isinstance(value, dict):
                resolved[key] = BrokerConfig(self._resolved(f"{where}: {key}", value, manifest))
            elif key in secret_keys or (_SECRET_KEY.search(key) and not key.endswith("_file")):
                self._problems.add(f'{where}: {key} must not stand in the file; allowed: {{ env = "NAME" }}.')
            elif (key == "path" or key.endswith("_file") or key in path_keys) and isinstance(value, str):
                resolved[key] = str(rooted(Path(value), self._sources.root))
            else:
                resolved[key] = value
        return resolved

    def _referenced(self, where: str, key: str, name: str) -> str | None:
        value = self._sources.get(name)
        if value is None and f"{name}_FILE" in self._sources and f"{name}_FILE" not in setting_names():
            value = self._sources.secret_from_file(name)
        elif value is None:
            self._problems.add(f"{where}: {key} refers to the variable {name}, which is not set.")
        if value is not None:
            self.references[name] = value
        return value

    def _check_keys(
        self, where: str, manifest: Manifest, account: Account, own: Mapping[str, object], unresolved: Iterable[str]
    ) -> None:
        """Refuses keys that nobody reads, and values that the adapter would refuse; of those `unresolved` it was said already."""
        configuration = BrokerFactory.configuration_of(account.broker)
        if configuration is None:
            return
        read = (configuration.model_fields.keys() - {"account_id"}) | manifest.command_keys
        for key in own:
            if key not in read:
                near = difflib.get_close_matches(key.lower(), read | _OWN_KEYS, n=1, cutoff=_NEAR_KEY_RATIO)
                meant = f"; was {near[0]} meant?" if near else "."
                self._problems.add(f"{where}: {key} is no key of an account at {account.broker}{meant}")
        wrong = configuration.wrong_in(dict.fromkeys(unresolved, _STAND_IN) | dict(account.config))
        for key, complaint in wrong.items():
            if key not in unresolved:
                # What a variable holds may be a secret: it is not repeated.
                is_shown = not _is_reference(own.get(key))
                self._problems.add(f"{where}: {complaint.sentence if is_shown else complaint.sentence_without_value}.")

    def _check_live(self, where: str, manifest: Manifest, live: bool, config: Mapping[str, object]) -> None:
        if live and self._environment.mongodb_uri is None:
            self._problems.add(
                f"{where} is live, but MONGODB_URI is not set: live accounts are refused on the embedded store; "
                "set MONGODB_URI, or live = false for a paper account."
            )
        if not live and not _is_harmless(manifest, config):
            paper = f"{manifest.paper_hint}, or " if manifest.paper_hint else ""
            self._problems.add(
                f"{where}: live is false, but nothing shows that no real money is at stake; allowed: "
                f"{paper}a host or URL on this machine (loopback)."
            )


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str)


def _is_harmless(manifest: Manifest, config: Mapping[str, object]) -> bool:
    is_paper = manifest.is_paper(config)
    if is_paper is not None:
        return is_paper
    addresses = [str(value) for key, value in config.items() if key == "host" or key.endswith("url")]
    return bool(addresses) and all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    try:
        host = (urlsplit(address).hostname or "") if "://" in address else address.strip("[]")
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def account_at(
    manifest: Manifest,
    account_id: str,
    name: str,
    brokers: Mapping[str, BrokerVariables],
    data_dir: Path,
    resolved: Mapping[str, object],
    *,
    live: bool,
    own: Collection[str] = (),
) -> Account:
    """An account at a broker. `brokers`: each broker's own variables, `resolved`: what the account's table says, `own`: the keys in it, with those
    that could not be resolved."""
    config = brokers[manifest.name].account_keys(own, data_dir) | dict(resolved)
    config |= {"broker": manifest.name, "account_id": account_id}
    return Account(account_id=account_id, name=name, broker=manifest.name, live=live, config=BrokerConfig(config))
