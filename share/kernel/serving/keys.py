"""Keys of the API: who may call, and as what.

A key is shown once, when it is made. What is kept is an HMAC of it under a salt of this file: a key holds 256 random
bits, so that there is nothing to guess and a slow hash would only slow the caller down. Whoever can write the file can
make keys; who loses the last admin key removes the file and starts the service again, which makes a new first one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from share.kernel.errors import KeyProblem, KeyRefused, UnknownKey
from share.kernel.files import write_atomically

Role = Literal["viewer", "client", "reviewer", "operator", "admin"]
"""`viewer` looks at how the service does; `client` asks; `reviewer` decides reviews; `operator` rolls back and switches
learning; `admin` may do everything, erase a person and make keys. All but `client` may look."""

ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "pixelis"
KEYS_MAX = 10_000
LABEL_CHARACTERS_MAX = 80
GRACE_S_MAX = 30 * 86400.0
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `id` names the client everywhere; `created_at` is in seconds since 1970.

    After a rotation the secret before counts until `previous_until`.
    """

    id: str
    role: Role
    label: str
    created_at: float
    digest: str
    previous_digest: str = ""
    previous_until: float = 0.0


class KeyStore:
    """The keys of one file. Thread-safe; what a method returned is on disk.

    `clock` gives seconds since 1970. Raises KeyProblem when the file cannot be used. `first_key` is the admin key that
    was made with a new file, None otherwise.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, ApiKey] = {}
        self.first_key: str | None = None
        if path.exists():
            self._salt = self._read()
        else:
            self._salt = secrets.token_bytes(32)
            _, self.first_key = self.add("admin", "first")

    def check(self, text: str) -> ApiKey:
        """The key that `text` is. Raises KeyRefused; how long that takes tells nothing about the keys."""
        prefix, _, rest = text.partition("-")
        known = self._keys.get(rest.partition("-")[0]) if prefix == PREFIX else None
        digest = self._digest(text)
        is_current = hmac.compare_digest(digest, known.digest if known else self._nobody)
        is_previous = hmac.compare_digest(digest, known.previous_digest if known else self._nobody)
        if known is None or not (is_current or (is_previous and self._clock() < known.previous_until)):
            raise KeyRefused("the API key is not known, or is no longer valid")
        return known

    def all(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        with self._lock:
            return list(self._keys.values())

    def get(self, key_id: str) -> ApiKey:
        """Raises UnknownKey."""
        with self._lock:
            return self._known(key_id)

    def add(self, role: Role, label: str = "") -> tuple[ApiKey, str]:
        """Make a key. Returns it and its text, which nobody can show again. Raises KeyProblem when there are 10,000."""
        if len(label) > LABEL_CHARACTERS_MAX:
            raise KeyProblem(f"label: {len(label)} characters are more than {LABEL_CHARACTERS_MAX}")
        with self._lock:
            if len(self._keys) >= KEYS_MAX:
                raise KeyProblem(f"keys: there are {KEYS_MAX:,}; remove one first")
            key_id = "k" + secrets.token_hex(6)
            text = self._new_text(key_id)
            key = ApiKey(key_id, role, label, round(self._clock(), 3), self._digest(text))
            self._write({**self._keys, key_id: key})
        return key, text

    def rotate(self, key_id: str, *, grace_s: float = 0.0) -> tuple[ApiKey, str]:
        """A new secret for a key that stays the same client; the old one counts `grace_s` seconds more.

        Raises UnknownKey.
        """
        if not 0.0 <= grace_s <= GRACE_S_MAX:
            raise KeyProblem(f"grace_s: {grace_s:g} is not within 0 and {GRACE_S_MAX:.0f}")
        with self._lock:
            old = self._known(key_id)
            text = self._new_text(key_id)
            until = self._clock() + grace_s if grace_s else 0.0
            key = replace(
                old,
                digest=self._digest(text),
                previous_digest=old.digest if grace_s else "",
                previous_until=until,
            )
            self._write({**self._keys, key_id: key})
        return key, text

    def remove(self, key_id: str) -> ApiKey:
        """Make a key worthless at once. Raises UnknownKey, and KeyProblem for the last admin key."""
        with self._lock:
            key = self._known(key_id)
            rest = {each: other for each, other in self._keys.items() if each != key_id}
            if all(other.role != "admin" for other in rest.values()):
                raise KeyProblem(f"key {key_id}: is the last admin key; make another one first")
            self._write(rest)
        return key

    @property
    def _nobody(self) -> str:
        """What an unknown key is compared with: as long as a digest, and none."""
        return "-" * 64

    def _known(self, key_id: str) -> ApiKey:
        if key_id not in self._keys:
            raise UnknownKey(f"key {key_id}: there is none of that id")
        return self._keys[key_id]

    def _new_text(self, key_id: str) -> str:
        return f"{PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"

    def _digest(self, text: str) -> str:
        return hmac.new(self._salt, text.encode(errors="replace"), hashlib.sha256).hexdigest()

    def _read(self) -> bytes:
        try:
            told = json.loads(self._path.read_bytes())
            if told["format"] != _FORMAT:
                raise KeyProblem(f"{self._path}: has format {told['format']}; this version reads {_FORMAT}")
            self._keys = {each["id"]: ApiKey(**each) for each in told["keys"]}
            salt = bytes.fromhex(told["salt"])
            if len(salt) < 16 or any(key.role not in ROLES for key in self._keys.values()):
                raise ValueError
        except OSError as error:
            raise KeyProblem(f"{self._path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise KeyProblem(f"{self._path}: is damaged; restore it, or remove it to begin with a new key") from error
        return salt

    def _write(self, keys: dict[str, ApiKey]) -> None:
        told = {"format": _FORMAT, "salt": self._salt.hex(), "keys": [asdict(key) for key in keys.values()]}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(told, indent=2).encode() + b"\n", 0o600)
        except OSError as error:
            raise KeyProblem(f"{self._path}: cannot be written: {error.strerror}") from error
        self._keys = keys


__all__ = [
    "GRACE_S_MAX",
    "KEYS_MAX",
    "LABEL_CHARACTERS_MAX",
    "PREFIX",
    "ROLES",
    "ApiKey",
    "KeyStore",
    "Role",
]
