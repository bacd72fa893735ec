from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.encryption import KeyFileError, Keyring, UnsealError, read_keys, read_or_make

ONE, TWO = bytes(range(32)), bytes(range(32, 64))


def _line(key_id: str, key: bytes) -> str:
    return f"{key_id}:{base64.b64encode(key).decode()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a key file could be."""
    return tmp_path / "keys"


def test_a_key_is_made_where_there_is_none(file: Path) -> None:
    """The first start makes a key of 32 bytes that only its owner may read, and the next start reads the same one."""
    made = read_keys(file)
    assert [(key_id, len(key)) for key_id, key in made.items()] == [("k1", 32)]
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_keys(file) == made


def test_keys_of_two_files_differ(tmp_path: Path) -> None:
    """A key is made at random."""
    assert read_keys(tmp_path / "a") != read_keys(tmp_path / "b")


def test_a_private_file_is_left_as_it_is(file: Path) -> None:
    """What exists is read, not made again."""
    file.write_text("mine")
    assert read_or_make(file, lambda: "another") == "mine"


def test_the_first_line_seals(file: Path) -> None:
    """After a new line is put on top, it seals, and what the old one sealed still opens."""
    file.write_text(_line("old", ONE))
    sealed_before = Keyring(read_keys(file)).seal(b"secret", "purpose")
    file.write_text(_line("new", TWO) + _line("old", ONE))
    keyring = Keyring(read_keys(file))
    sealed_after = keyring.seal(b"secret", "purpose")
    assert (sealed_before[:4], sealed_after[:4]) == (b"old:", b"new:")
    assert keyring.open(sealed_before, "purpose") == keyring.open(sealed_after, "purpose") == b"secret"


def test_what_a_removed_key_sealed_does_not_open() -> None:
    """Without its key, what was sealed is refused, and the message names the keys that are there."""
    sealed = Keyring({"old": ONE}).seal(b"secret", "purpose")
    with pytest.raises(UnsealError, match=r"\(new\)"):
        Keyring({"new": TWO}).open(sealed, "purpose")


def test_another_key_under_the_same_id_does_not_open() -> None:
    """An id is no proof: the key must be the same."""
    sealed = Keyring({"k": ONE}).seal(b"secret", "purpose")
    with pytest.raises(UnsealError):
        Keyring({"k": TWO}).open(sealed, "purpose")


def test_another_purpose_does_not_open() -> None:
    """What was sealed for one row or list is refused for another."""
    keyring = Keyring({"k": ONE})
    with pytest.raises(UnsealError, match="another purpose"):
        keyring.open(keyring.seal(b"secret", "service_account_jwt of configs/a"), "service_account_jwt of configs/b")


@given(st.binary(max_size=200), st.text(max_size=20), st.data())
def test_whatever_was_changed_does_not_open(plaintext: bytes, purpose: str, data: st.DataObject) -> None:
    """Sealing and opening gives the same bytes back, and a single changed byte anywhere is refused."""
    keyring = Keyring({"k": ONE})
    sealed = keyring.seal(plaintext, purpose)
    assert keyring.open(sealed, purpose) == plaintext
    place = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnsealError):
        keyring.open(bytes(changed), purpose)


@given(st.binary(max_size=100))
def test_anything_that_was_not_sealed_is_refused(anything: bytes) -> None:
    """Bytes from elsewhere are refused as such, never with another error."""
    with pytest.raises(UnsealError):
        Keyring({"k": ONE}).open(anything, "purpose")


def test_sealing_twice_gives_two_texts() -> None:
    """The same plaintext is not recognizable when it is sealed again."""
    keyring = Keyring({"k": ONE})
    assert keyring.seal(b"secret", "p") != keyring.seal(b"secret", "p")


@pytest.mark.parametrize(
    "text",
    [
        "k1\n",
        "k1:\n",
        "k1:AAAA\n",
        _line("k1", ONE[:31]),
        _line("k-1", ONE),
        _line("", ONE),
        "k1:" + "é" * 43 + "\n",
        "k1:!!!!\n",
    ],
)
def test_a_line_that_is_no_key_is_refused_without_showing_it(file: Path, text: str) -> None:
    """A key file with a broken line is refused by its line's number, and the contents stay out of the message."""
    file.write_text(_line("good", TWO) + text)
    with pytest.raises(KeyFileError, match="Line 2 of") as refusal:
        read_keys(file)
    secret = base64.b64encode(TWO).decode()
    assert secret not in str(refusal.value)
    assert base64.b64encode(ONE).decode()[:20] not in str(refusal.value)


def test_a_key_file_without_a_key_is_refused(file: Path) -> None:
    """An empty file, as a full disk leaves it at the first start, is refused with words, for every reader of keys."""
    file.write_text("\n")
    with pytest.raises(KeyFileError):
        read_keys(file)


def test_no_keys_make_no_keyring() -> None:
    """A keyring has a key."""
    with pytest.raises(KeyFileError):
        Keyring({})


def test_an_id_that_stands_twice_is_refused(file: Path) -> None:
    """Two lines with one id would let the lower one win, so that a rotation would silently not take place."""
    file.write_text(_line("k1", TWO) + _line("k1", ONE))
    with pytest.raises(KeyFileError):
        read_keys(file)


def test_an_id_that_can_be_read_can_be_opened(file: Path) -> None:
    """A key whose id the file may have opens what it sealed; an id beyond ASCII is refused, or works."""
    file.write_text(_line("schlüssel1", ONE), encoding="utf-8")
    try:
        keyring = Keyring(read_keys(file))
    except KeyFileError:
        return
    assert keyring.open(keyring.seal(b"secret", "p"), "p") == b"secret"


def test_a_keyring_shows_no_key() -> None:
    """The representation has the ids alone."""
    assert repr(Keyring({"new": TWO, "old": ONE})) == "Keyring(new, old)"
