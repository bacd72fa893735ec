"""Keys in files, and what they seal: secrets at rest, and page tokens.

A key file has a line `{key id}:{32 bytes in base64}` for each key. The first one seals; all of them open, so a key is
rotated by putting a new line on top; the store's file is read again when it changes (`rotation`).
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyFileError(ValueError):
    """A key file that cannot be used. The message never shows its contents."""


class UnsealError(ValueError):
    """Something that no key of this key file sealed, or sealed for another purpose."""


class Keyring:
    """The keys of one key file."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        """Take the keys, as `replace` does."""
        self.replace(keys)

    def replace(self, keys: dict[str, bytes]) -> None:
        """Take these keys in place of those before: by id, the sealing one first, 32 bytes each."""
        if not keys:
            raise KeyFileError("There is no key.")
        self.keys = keys
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._ciphers)})"

    def seal(self, plaintext: bytes, purpose: str) -> bytes:
        """Encrypt and authenticate. `purpose` says what it is and whose; opening needs the same one."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        key_id, cipher = next(iter(self._ciphers.items()))
        return key_id.encode() + b":" + nonce + cipher.encrypt(nonce, plaintext, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Undo `seal`.

        Raises:
            UnsealError: it was not sealed by one of these keys for this purpose.
        """
        key_id, _, rest = sealed.partition(b":")
        cipher = self._ciphers.get(key_id.decode("ascii", "replace"))
        if cipher is None:
            raise UnsealError(f"It was sealed with a key that is not in the key file ({', '.join(self._ciphers)}).")
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise UnsealError("It was changed, or sealed for another purpose.") from error


def read_one_key(path: Path, *, make: bool = True) -> bytes:
    """Read the key of a file that must have just one, as the audit log's, whose chain cannot change keys.

    Raises:
        KeyFileError: there are several, or as for `read_keys`.
        OSError: the file cannot be read or made.
    """
    keys = read_keys(path, make=make)
    if len(keys) > 1:
        raise KeyFileError(
            f"{path} has {len(keys)} keys, but the audit log's chain has one: leave the first one in it."
        )
    return next(iter(keys.values()))


def read_keys(path: Path, *, make: bool = True) -> dict[str, bytes]:
    """Read a key file.

    Args:
        path: the file.
        make: make it with a first key where there is none.

    Returns:
        The keys by id, the sealing one first.

    Raises:
        KeyFileError: a line is not `{key id}:{32 bytes in base64}`.
        OSError: the file cannot be read or made.
    """
    return parse_keys(read_or_make(path, _first_key) if make else path.read_text(), path)


def parse_keys(text: str, path: Path) -> dict[str, bytes]:
    """Read the text of a key file.

    Args:
        text: the text.
        path: the file, for the words of an error.

    Returns:
        The keys by id, the sealing one first.

    Raises:
        KeyFileError: a line is not `{key id}:{32 bytes in base64}`.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.split(), start=1):
        key_id, _, encoded = line.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not (key_id.isalnum() and key_id.isascii()) or len(key) != _KEY_BYTES:
            raise KeyFileError(
                f"Line {number} of {path} is not a key id, a colon and {_KEY_BYTES} bytes in base64. "
                f"`openssl rand -base64 {_KEY_BYTES}` makes such bytes."
            )
        if key_id in keys:
            raise KeyFileError(
                f"Line {number} of {path} has the id of an earlier line: give each key an id of its own."
            )
        keys[key_id] = key
    if not keys:
        raise KeyFileError(f"{path} is empty: delete it, and the next start makes a key, or put the lost key back.")
    return keys


def _first_key() -> str:
    return f"k1:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n"


def read_or_make(path: Path, make: Callable[[], str]) -> str:
    """Read a private text file; where there is none, make it first, for its owner only (mode 0600).

    Args:
        path: the file.
        make: called without arguments for the text of a new file.
    """
    if not path.exists():
        _make(path, make())
    return path.read_text()


def _make(path: Path, text: str) -> None:
    """Make a file whole or not at all; where another process was faster, its file stays."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
            sync_folder(path)
    finally:
        Path(draft).unlink()


def sync_folder(path: Path) -> None:
    """Bring a new file's name onto the disk; syncing the file alone does not."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
