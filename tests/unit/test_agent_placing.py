"""Files that are replaced whole or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubevend.agent.placing import Placed, PlacingError, Target, clear_leftovers, holds, remove

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is not there yet, in a folder of its own."""
    return tmp_path / "own" / "token"


def place(file: Path, content: bytes = b"new", mode: int = 0o600) -> None:
    """Put a file in its place."""
    Placed(Target(file, mode), content).commit()


def test_a_file_is_as_it_was_asked_for(file: Path) -> None:
    """Content, mode, owner and group are as asked for, whatever the umask; its folder is its owner's to change."""
    owner, group = (12345, 23456) if AS_ROOT else (os.getuid(), os.getgid())
    before = os.umask(0o077)
    try:
        Placed(Target(file, 0o644, owner, group), b"one").commit()
    finally:
        os.umask(before)
    found = file.stat()
    assert (file.read_bytes(), stat.S_IMODE(found.st_mode)) == (b"one", 0o644)
    assert (found.st_uid, found.st_gid) == (owner, group)
    assert not file.parent.stat().st_mode & 0o022
    assert [*file.parent.iterdir()] == [file]


def test_nobody_sees_what_is_not_committed(file: Path) -> None:
    """Until it is committed the old content is there, and the new one is its writer's alone; discarded, it is gone."""
    place(file, b"old")
    new = Placed(Target(file, 0o600), b"new")
    (beside,) = [each for each in file.parent.iterdir() if each != file]
    assert (file.read_bytes(), stat.S_IMODE(beside.stat().st_mode)) == (b"old", 0o600)
    new.discard()
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o2777])
def test_a_folder_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    """Where others could put another file in its place nothing is written, and the error says what to do."""
    file.parent.mkdir()
    file.parent.chmod(mode)
    with pytest.raises(PlacingError, match=rf"may be written by anyone.*chmod go-w.*as {file.parent}/kubevend/token"):
        place(file)
    assert [*file.parent.iterdir()] == []


@pytest.mark.skipif(not AS_ROOT, reason="only root may give a folder away")
def test_another_users_folder_is_refused(file: Path) -> None:
    """A folder of another user's, or that another group may write, is refused; one's own group's is not."""
    file.parent.mkdir()
    os.chown(file.parent, 12345, -1)
    with pytest.raises(PlacingError, match="is another user's"):
        place(file)
    os.chown(file.parent, 0, 23456)
    file.parent.chmod(0o770)
    with pytest.raises(PlacingError, match="may be written by group 23456"):
        place(file)
    os.chown(file.parent, 0, os.getegid())
    place(file)


def test_a_sticky_folder_is_good(file: Path) -> None:
    """In a folder such as /tmp the sticky bit keeps others from replacing a file."""
    file.parent.mkdir()
    file.parent.chmod(0o1777)
    place(file)
    assert file.read_bytes() == b"new"


def test_a_link_is_not_followed_and_not_replaced(file: Path, tmp_path: Path) -> None:
    """A link in the file's place is refused, what it leads to stays; so is a folder."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file.parent.mkdir()
    file.symlink_to(victim)
    with pytest.raises(PlacingError, match="is a symbolic link, and is not replaced"):
        place(file)
    assert (victim.read_text(), file.is_symlink()) == ("mine", True)
    file.unlink()
    file.mkdir()
    with pytest.raises(PlacingError, match="is no file"):
        place(file)
    assert [*file.parent.iterdir()] == [file]


def test_a_failure_is_told_and_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the old file is whole, nothing is left beside it, and the error has no content in it."""
    place(file, b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # the only way to a full disk that needs no rights
    with pytest.raises(PlacingError, match="No space left on device") as told:
        place(file, b"secret")
    assert "secret" not in str(told.value)
    assert (file.read_bytes(), [*file.parent.iterdir()]) == (b"old", [file])


def test_what_is_there_already_is_known(file: Path) -> None:
    """A file is known to be as it should only where content, mode and kind are."""
    target = Target(file, 0o640)
    assert not holds(target, b"new")
    place(file, b"new", 0o640)
    assert holds(target, b"new")
    assert not holds(target, b"ne")
    assert not holds(target, b"newer")
    assert not holds(Target(file, 0o600), b"new")
    assert not holds(Target(file, 0o640, owner=os.geteuid() + 1), b"new")
    file.with_name("another").hardlink_to(file)
    assert not holds(target, b"new")
    file.with_name("another").unlink()
    file.rename(file.with_name("other"))
    file.symlink_to("other")
    assert not holds(target, b"new")
    file.unlink()
    file.mkdir(0o640)
    assert not holds(target, b"new")


def test_removing(file: Path) -> None:
    """A file is removed once, and what cannot be is told."""
    place(file)
    assert remove(file)
    assert not remove(file)
    file.mkdir()
    with pytest.raises(PlacingError):
        remove(file)


def test_only_leftovers_are_cleared(file: Path) -> None:
    """What a killed writer left is removed; what somebody is writing, and other files, are not."""
    place(file)
    alone = [file.with_name(".token.00000001.kubevend-new"), file.with_name(".token.00000002.kubevend-new")]
    others = [file.with_name(".token.1.kubevend-new"), file.with_name(".other.00000001.kubevend-new")]
    for each in [*alone, *others]:
        each.write_text("half")
    with alone[1].open() as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert clear_leftovers(file) == 1
    assert sorted(file.parent.iterdir()) == sorted([file, alone[1], *others])


WRITER = """
import sys
from pathlib import Path
from kubevend.agent.placing import Placed, Target
number = 0
while True:
    number += 1
    Placed(Target(Path(sys.argv[1])), (f"{number} " * 20_000).encode()).commit()
    print(number, flush=True)
"""


def test_a_writer_may_be_killed_at_any_moment(file: Path) -> None:
    """Whoever reads the file while writers of it are killed over and over finds one whole content each time."""
    place(file, b"0 " * 20_000)
    torn: list[bytes] = []
    stop = threading.Event()
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            content = file.read_bytes()
            words = content.split()
            reads += 1
            if len(words) != 20_000 or len(set(words)) != 1:
                torn.append(content[:100])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        written = sum(written_before_killed(file, kill) for kill in range(15))
    finally:
        stop.set()
        reader.join()
    assert torn == []
    assert written >= 15
    assert reads > 0
    clear_leftovers(file)
    assert [*file.parent.iterdir()] == [file]


def written_before_killed(file: Path, count: int) -> int:
    """Let a writer write so many times and once more, and kill it while it goes on; how often it wrote."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines: Iterator[str] = iter(writer.stdout)
        for _ in range(count % 5 + 1):
            next(lines)
        writer.send_signal(signal.SIGKILL)
        return count % 5 + 1
