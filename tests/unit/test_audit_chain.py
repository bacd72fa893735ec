from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.audit.chain import NO_HASH, BrokenLine, Head, Link, close_line, read_line
from kubevend_server.audit.log import AuditLog
from kubevend_server.audit.verify import Report, verify
from tests.unit.builders import AUDIT_KEY, NOW, clock

BODY = b'{"sequence":"7","method":"x","previousHash":"' + b"a" * 64 + b'"}'
EVENT = {"stage": "STAGE_COMPLETE", "method": "kubevend.v1.IssueService/IssueToken"}


def test_a_line_is_its_body_and_a_keyed_hash() -> None:
    """A line is a JSON object whose last member is the HMAC-SHA-256 of the line without it."""
    line, digest = close_line(BODY, AUDIT_KEY)
    assert digest == hmac.new(AUDIT_KEY, BODY, hashlib.sha256).hexdigest()
    assert json.loads(line) == {**json.loads(BODY), "hash": digest}
    assert line.endswith(f',"hash":"{digest}"}}\n'.encode())


def test_a_line_tells_its_place() -> None:
    """A line that was closed reads as its place in the chain."""
    line, digest = close_line(BODY, AUDIT_KEY)
    link = read_line(line.rstrip(b"\n"), AUDIT_KEY)
    assert link == Link(7, "a" * 64, digest)
    assert link.head == Head(7, digest)


def test_another_key_does_not_fit() -> None:
    """A line that was written under another key is broken."""
    line, _ = close_line(BODY, AUDIT_KEY)
    with pytest.raises(BrokenLine):
        read_line(line.rstrip(b"\n"), bytes(32))


@given(st.data())
def test_a_changed_byte_breaks_the_line(data: st.DataObject) -> None:
    """One byte that differs, wherever it stands and whatever it becomes, makes the line a broken one."""
    whole = close_line(BODY, AUDIT_KEY)[0].rstrip(b"\n")
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BrokenLine):
        read_line(bytes(changed), AUDIT_KEY)


@pytest.mark.parametrize("byte", [b"\x80", b"\xff", b"g"])
def test_a_hash_that_is_none_breaks_the_line(byte: bytes) -> None:
    """A byte beyond ASCII in the hash, as a failing disk leaves it, is a broken line and no other error."""
    whole = close_line(BODY, AUDIT_KEY)[0].rstrip(b"\n")
    with pytest.raises(BrokenLine):
        read_line(whole[:-10] + byte + whole[-9:], AUDIT_KEY)


@pytest.mark.parametrize("end", [b'"]', b"  ", b"}}"])
def test_the_last_two_bytes_count(end: bytes) -> None:
    """The bytes behind the hash belong to the line: with others it is no JSON, and broken."""
    whole = close_line(BODY, AUDIT_KEY)[0].rstrip(b"\n")
    with pytest.raises(BrokenLine):
        read_line(whole[:-2] + end, AUDIT_KEY)


@given(st.binary(max_size=200))
def test_anything_else_is_a_broken_line(anything: bytes) -> None:
    """Bytes from elsewhere are a broken line, never another error."""
    with pytest.raises(BrokenLine):
        read_line(anything, AUDIT_KEY)


@given(st.integers(0, 200))
def test_a_torn_line_is_broken(length: int) -> None:
    """A line without its end is broken, wherever it was torn."""
    whole = close_line(BODY, AUDIT_KEY)[0].rstrip(b"\n")
    with pytest.raises(BrokenLine):
        read_line(whole[: min(length, len(whole) - 1)], AUDIT_KEY)


# The file.


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a log could be."""
    return tmp_path / "audit.jsonl"


def _open(file: Path, committed: Head = Head()) -> AuditLog:  # noqa: B008 - it is frozen
    return AuditLog(file, AUDIT_KEY, committed, clock)


def _write(file: Path, count: int, committed: Head = Head()) -> Head:  # noqa: B008 - it is frozen
    log = _open(file, committed)
    for number in range(count):
        log.append({**EVENT, "requestId": str(number)})
    log.close()
    return log.head


def test_lines_are_chained_and_stamped(file: Path) -> None:
    """Each line has its number, its time, the hash of the one before, and its event's fields in between."""
    head = _write(file, 2)
    first, second = (json.loads(line) for line in _lines(file))
    time = NOW.isoformat().replace("+00:00", "Z")
    assert first == {
        "sequence": "1",
        "time": time,
        **EVENT,
        "requestId": "0",
        "previousHash": NO_HASH,
        "hash": first["hash"],
    }
    assert second == {
        "sequence": "2",
        "time": time,
        **EVENT,
        "requestId": "1",
        "previousHash": first["hash"],
        "hash": head.hash,
    }
    assert list(first) == ["sequence", "time", "stage", "method", "requestId", "previousHash", "hash"]
    assert head == Head(2, second["hash"])


def test_the_file_is_its_owners_only(file: Path) -> None:
    """A new log is made with mode 0600."""
    _write(file, 1)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_it_ended(file: Path) -> None:
    """A log that is opened again continues the chain."""
    before = _write(file, 2)
    log = _open(file, before)
    assert (log.found, log.head) == (before, before)
    log.close()
    after = _write(file, 1, before)
    assert verify(_lines(file), AUDIT_KEY, after) == Report(lines=3)


def test_lines_beyond_the_committed_head_are_kept(file: Path) -> None:
    """Where a crash came between the sync and the commit, the file is ahead of the store, and the chain goes on from
    the file.
    """
    head = _write(file, 3)
    log = _open(file, Head(1, json.loads(_lines(file)[0])["hash"]))
    assert log.head == head
    log.close()


@pytest.mark.parametrize("keep", [1, 100, -2, -1])
def test_a_torn_last_line_is_ended_and_the_chain_goes_on(file: Path, keep: int) -> None:
    """A line that a crash tore, were it by a byte, stands alone, the next one joins on to the last whole one, and
    verification counts it as torn.
    """
    committed = _write(file, 2)
    _write(file, 1)
    *whole, last = _lines(file)
    file.write_bytes(b"".join(whole) + last[:keep])
    head = _write(file, 1, committed)
    if keep == -1:  # the line's own newline only: the line is whole
        assert verify(_lines(file), AUDIT_KEY, head) == Report(lines=4)
    else:
        assert verify(_lines(file), AUDIT_KEY, head) == Report(lines=3, torn=1)


def test_two_crashes_in_a_row_are_no_theft(file: Path) -> None:
    """A server that dies again while it writes its first line leaves two fragments, and the log is sound all the
    same, since the next line joins on.
    """
    committed = _write(file, 2)
    for _ in range(2):
        _write(file, 1, committed)
        *whole, last = _lines(file)
        file.write_bytes(b"".join(whole) + last[:50])
    head = _write(file, 1, committed)
    assert verify(_lines(file), AUDIT_KEY, head) == Report(lines=3, torn=2)


def test_a_crash_in_the_very_first_line_is_no_theft(file: Path) -> None:
    """A log whose first line was torn goes on with sequence 1, and is sound."""
    _write(file, 1)
    file.write_bytes(_lines(file)[0][:50])
    head = _write(file, 2)
    assert verify(_lines(file), AUDIT_KEY, head) == Report(lines=2, torn=1)


def test_a_file_of_fragments_is_no_error(file: Path) -> None:
    """A file without a single whole line starts the chain at the committed head."""
    file.write_bytes(b"torn\n\xff\xfe")
    log = _open(file, Head(5, "b" * 64))
    assert (log.found, log.head) == (Head(), Head(5, "b" * 64))
    log.close()
    assert file.read_bytes().endswith(b"\n")


def test_an_empty_file_starts_behind_the_committed_head(file: Path) -> None:
    """Where the file is gone, the chain goes on from what the store knows, so that the gap shows: nothing joins on to
    sequence 0.
    """
    head = _write(file, 3)
    old = _lines(file)
    file.unlink()
    log = _open(file, head)
    assert (log.found, log.head) == (Head(), head)
    log.append(EVENT)
    log.close()
    assert [json.loads(line)["sequence"] for line in _lines(file)] == ["4"]
    assert verify([*old, *_lines(file)], AUDIT_KEY, log.head) == Report(lines=4)
    assert verify([*old[:2], *_lines(file)], AUDIT_KEY, log.head).faults


def test_a_log_that_was_cut_shows_it(file: Path) -> None:
    """Where the end of the file was cut off, the next line does not join on to what is left."""
    head = _write(file, 3)
    file.write_bytes(b"".join(_lines(file)[:2]))
    after = _write(file, 1, head)
    assert after.sequence == 4
    assert verify(_lines(file), AUDIT_KEY, after).faults == [
        "line 3: sequence 4 does not join on to sequence 2: lines were changed, left out or put in"
    ]


def test_rewinding_takes_lines_back(file: Path) -> None:
    """What was written since the mark is gone from file and chain, and what comes next joins on to the rest."""
    log = _open(file)
    log.append(EVENT)
    mark = log.mark()
    log.append(EVENT)
    log.append(EVENT)
    log.rewind(mark)
    assert log.mark() == mark
    log.append(EVENT)
    log.close()
    assert verify(_lines(file), AUDIT_KEY, log.head) == Report(lines=2)


def test_reopening_goes_on_in_a_new_file(file: Path) -> None:
    """After the file was moved away, the chain goes on in a new one of the same name, and both together are sound."""
    log = _open(file)
    log.append(EVENT)
    moved = file.with_suffix(".1")
    file.rename(moved)
    log.reopen()
    log.append(EVENT)
    log.close()
    assert (len(_lines(moved)), len(_lines(file))) == (1, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert verify([*_lines(moved), *_lines(file)], AUDIT_KEY, log.head) == Report(lines=2)


def test_a_longer_log_is_read_from_its_end(file: Path) -> None:
    """The last line is found in a file that is larger than what is read of it, also where its last line is torn."""
    log = _open(file)
    for _ in range(400):
        log.append({**EVENT, "message": "x" * 4000})
    log.close()
    with file.open("ab") as end:
        end.write(b"{torn")
    opened = _open(file)
    assert opened.head == log.head
    opened.close()


def test_a_last_line_that_is_very_long_is_found(file: Path) -> None:
    """What a request can put into its line is no more than what is read of a log's end."""
    log = _open(file)
    log.append({**EVENT, "message": "\1" * (1 << 18)})
    log.close()
    opened = _open(file)
    assert opened.found == log.head
    opened.close()


# Verification.


@pytest.fixture
def log(file: Path) -> list[bytes]:
    """Five lines that are sound."""
    _write(file, 5)
    return _lines(file)


def _head(line: bytes) -> Head:
    return read_line(line.rstrip(b"\n"), AUDIT_KEY).head


def test_a_sound_log_has_no_faults(log: list[bytes]) -> None:
    """Lines that are all in place give a report without faults, with and without newlines."""
    assert verify(log, AUDIT_KEY, _head(log[-1])) == Report(lines=5)
    assert verify([line.rstrip(b"\n") for line in log], AUDIT_KEY, _head(log[-1])) == Report(lines=5)


def test_a_log_may_begin_later(log: list[bytes]) -> None:
    """Old files may have been put away: the first line need not be the first of the log."""
    assert verify(log[2:], AUDIT_KEY, _head(log[-1])) == Report(lines=3)


def test_several_files_are_one_log(log: list[bytes]) -> None:
    """The lines of rotated files, the oldest first, are one log; in another order they are not, and without the one in
    the middle neither.
    """
    files = [log[:2], log[2:3], log[3:]]
    head = _head(log[-1])
    assert verify([line for part in files for line in part], AUDIT_KEY, head) == Report(lines=5)
    assert verify([line for part in reversed(files) for line in part], AUDIT_KEY, head).faults
    assert verify([*files[0], *files[2]], AUDIT_KEY, head).faults


def test_an_empty_log_is_sound_only_where_nothing_was_committed() -> None:
    """No lines are no fault for a store that knows none, and a theft for one that does."""
    assert verify([], AUDIT_KEY, Head()) == Report()
    assert verify([], AUDIT_KEY, Head(3, "a" * 64)).faults == [
        "the log ends with sequence 0, but the store knows that 3 was on the disk: the end was cut off"
    ]


def test_a_log_ahead_of_the_store_is_sound(log: list[bytes]) -> None:
    """A crash between sync and commit leaves lines that the store does not know."""
    assert verify(log, AUDIT_KEY, _head(log[2])) == Report(lines=5)


@pytest.mark.parametrize("place", range(5))
def test_a_changed_line_is_a_fault(log: list[bytes], place: int) -> None:
    """A line in which one letter was changed is found, wherever it stands."""
    head = _head(log[-1])
    log[place] = log[place].replace(b"IssueToken", b"IssueTokem")
    assert verify(log, AUDIT_KEY, head).faults


@pytest.mark.parametrize("place", range(1, 5))
def test_a_removed_line_is_a_fault(log: list[bytes], place: int) -> None:
    """A line that is missing is found, wherever it stood."""
    head = _head(log[-1])
    del log[place]
    assert verify(log, AUDIT_KEY, head).faults


@pytest.mark.parametrize("place", range(4))
def test_swapped_lines_are_a_fault(log: list[bytes], place: int) -> None:
    """Two lines in the wrong order are found."""
    head = _head(log[-1])
    log[place], log[place + 1] = log[place + 1], log[place]
    assert verify(log, AUDIT_KEY, head).faults


@pytest.mark.parametrize("place", range(6))
def test_a_repeated_line_is_a_fault(log: list[bytes], place: int) -> None:
    """A sound line that stands a second time is found."""
    head = _head(log[-1])
    log.insert(place, log[3])
    assert verify(log, AUDIT_KEY, head).faults


@pytest.mark.parametrize("place", range(6))
def test_a_forged_line_is_a_fault(log: list[bytes], place: int) -> None:
    """A whole event that somebody without the key has put in is found: a crash leaves the beginning of a line, which
    is never a whole JSON object.
    """
    head = _head(log[-1])
    forged, _ = close_line(b'{"sequence":"3","previousHash":"' + b"0" * 64 + b'"}', bytes(32))
    log.insert(place, forged)
    assert verify(log, AUDIT_KEY, head).faults


@pytest.mark.parametrize("place", range(1, 5))
def test_a_fragment_between_lines_that_join_is_a_crash(log: list[bytes], place: int) -> None:
    """A torn line after which the chain goes on without a gap is counted, and is no fault."""
    log.insert(place, log[place][:70] + b"\n")
    assert verify(log, AUDIT_KEY, _head(log[-1])) == Report(lines=5, torn=1)


@pytest.mark.parametrize("fragment", [b'{"sequence":"\xc3', b"[" * 100_000])
def test_a_fragment_need_not_be_text(log: list[bytes], fragment: bytes) -> None:
    """A crash that cuts a letter in two, or any other bytes, is a fragment too, and stops no verification."""
    assert verify([*log[:2], fragment + b"\n", *log[2:]], AUDIT_KEY, _head(log[-1])) == Report(lines=5, torn=1)


@pytest.mark.parametrize("place", range(4))
def test_a_line_that_was_torn_later_is_a_fault(log: list[bytes], place: int) -> None:
    """A fragment in place of a line is a fault, since the next line does not join on."""
    head = _head(log[-1])
    log[place] = log[place][:70] + b"\n"
    assert verify(log, AUDIT_KEY, head).faults


def test_a_torn_end_is_a_crash_only_beyond_the_committed_head(log: list[bytes]) -> None:
    """A last line that is torn is a crash if the store does not know it, and a theft if it does."""
    torn = [*log[:4], log[4][:70]]
    assert verify(torn, AUDIT_KEY, _head(log[3])) == Report(lines=4, torn=1)
    assert verify(torn, AUDIT_KEY, _head(log[4])).faults


@pytest.mark.parametrize("kept", range(5))
def test_a_cut_end_is_a_fault(log: list[bytes], kept: int) -> None:
    """Without its last lines the log does not reach what the store knows."""
    report = verify(log[:kept], AUDIT_KEY, _head(log[-1]))
    assert report == Report(
        lines=kept,
        faults=[f"the log ends with sequence {kept}, but the store knows that 5 was on the disk: the end was cut off"],
    )


def test_a_replaced_end_is_a_fault(log: list[bytes], file: Path) -> None:
    """Lines that were written in place of others, under the right key, are not those that the store knows."""
    file.write_bytes(b"".join(log[:3]))
    log_again = _open(file)
    log_again.append({"method": "another"})
    log_again.append({"method": "another"})
    log_again.close()
    assert verify(_lines(file), AUDIT_KEY, _head(log[-1])).faults == [
        "sequence 5 is not the line that the store knows: the end was replaced"
    ]


@given(st.data())
def test_no_edit_of_a_committed_log_goes_unseen(data: st.DataObject) -> None:
    """Whatever lines are dropped, repeated, shuffled or changed, the report is the sound one only for the sound log."""
    lines, previous = [], NO_HASH
    for number in range(1, 6):
        body = f'{{"sequence":"{number}","previousHash":"{previous}"}}'.encode()
        line, previous = close_line(body, AUDIT_KEY)
        lines.append(line)
    chosen = data.draw(st.lists(st.sampled_from(lines), max_size=7))
    report = verify(chosen, AUDIT_KEY, Head(5, previous))
    sound = any(chosen == lines[start:] for start in range(5))
    assert (not report.faults) == sound


def test_a_log_without_the_line_that_the_store_knows_is_a_fault(file: Path) -> None:
    """A line beyond the committed head cannot stand for the whole log that was taken away before it."""
    committed = _write(file, 5)
    _write(file, 1, committed)
    assert verify(_lines(file)[-1:], AUDIT_KEY, committed).faults


def test_an_audit_file_has_one_writer(tmp_path: Path) -> None:
    """A second server on the same audit file does not start: two would break each other's chain."""
    file = tmp_path / "audit.jsonl"
    first = AuditLog(file, AUDIT_KEY, Head(), clock)
    with pytest.raises(OSError, match="is written by another kubevend-server"):
        AuditLog(file, AUDIT_KEY, Head(), clock)
    first.reopen()
    first.close()
    AuditLog(file, AUDIT_KEY, Head(), clock).close()
