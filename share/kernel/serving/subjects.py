"""What is kept of a subject: a hash under a secret of the service's directory, never the name.

Who has the files but not the secret cannot even confirm a guess at a name. The secret is made when the first subject is
to be recorded, or the first answer hashed for the gate, so that a service that records nothing writes none. Whoever
loses it can erase no person by name any more until retention has erased everything; whoever removes it has made all
hashes meaningless.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from pathlib import Path

from share.kernel.errors import ConfigError
from share.kernel.files import write_atomically

SECRET = "subjects.key"
"""The file in the directory of a service; its buffer is beside it."""

SECRET_BYTES = 32
_KEY_BYTES = 16


class Subjects:
    """The keys of subjects under the secret in a file. Thread-safe. Raises ConfigError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._secret = self._read()

    @property
    def is_made(self) -> bool:
        """Whether there is a secret yet."""
        return self._secret is not None

    def key(self, subject: str) -> str:
        """The key under which a subject is recorded, 32 hexadecimal digits. Raises OSError as `secret`."""
        return _keyed(subject, self.secret())

    def secret(self) -> bytes:
        """The secret of the directory. Raises OSError when there is none yet and none can be kept."""
        with self._lock:
            if self._secret is None:
                self._secret = self._made()
            return self._secret

    def keys(self, subject: str) -> tuple[str, ...]:
        """All keys under which a subject may have been recorded, that from before there was a secret too."""
        secret = self._secret
        return (unkeyed(subject),) if secret is None else (_keyed(subject, secret), unkeyed(subject))

    def _read(self) -> bytes | None:
        try:
            secret = bytes.fromhex(self._path.read_text("ascii"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read: {error.strerror}") from error
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise ConfigError(
                f"{self._path}: is damaged; restore it, or remove it: then nobody who was recorded until now can be "
                "erased by name"
            )
        return secret

    def _made(self) -> bytes:
        """A secret that is durable before anything is hashed with it, and nobody else's to read from its first byte."""
        secret = secrets.token_bytes(SECRET_BYTES)
        write_atomically(self._path, f"{secret.hex()}\n".encode(), 0o600)
        return secret


def unkeyed(subject: str) -> str:
    """The hash without a secret under which subjects were recorded before there was one. It names them in memory; on
    disk no new one is made of it."""
    return hashlib.blake2b(subject.encode(), digest_size=_KEY_BYTES).hexdigest()


def _keyed(subject: str, secret: bytes) -> str:
    return hashlib.blake2b(subject.encode(), digest_size=_KEY_BYTES, key=secret).hexdigest()


__all__ = ["SECRET", "SECRET_BYTES", "Subjects", "unkeyed"]
