from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubevend_server.sockets import UnixSocket


@contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    """A socket of this process, bound to a path."""
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(path))
        yield found


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o600, 0o700), (0o660, 0o750)])
def test_a_socket_is_its_owners_until_it_has_its_mode(tmp_path: Path, mode: int, folder_mode: int) -> None:
    """The folder is made for those who may connect, and at no moment can others."""
    path = tmp_path / "mesh" / "edge.sock"
    before = os.umask(0)
    try:
        with UnixSocket(path, mode).made_safely(), bound(path):
            at_first = stat.S_IMODE(path.stat().st_mode)
        assert os.umask(0) == 0
    finally:
        os.umask(before)

    assert at_first == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == folder_mode


def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    """The socket of a server that is gone makes way."""
    path = tmp_path / "edge.sock"
    with bound(path):
        pass

    with UnixSocket(path, 0o600).made_safely(), bound(path) as found:
        found.listen()

    assert path.is_socket()


def test_what_somebody_else_has_is_left_alone(tmp_path: Path) -> None:
    """A socket that is served, and what is none, stay as they are."""
    path, file, link = tmp_path / "edge.sock", tmp_path / "notes", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    with bound(path) as served:
        served.listen()
        for taken, words in ((path, "Somebody serves"), (file, "is no socket"), (link, "is no socket")):
            with pytest.raises(ValueError, match=words), UnixSocket(taken, 0o600).made_safely():
                pytest.fail("it was taken")

    assert path.is_socket()
    assert file.read_text() == "mine"
    assert link.is_symlink()


def test_a_folder_that_everybody_can_write(tmp_path: Path) -> None:
    """Where anybody could put another socket in its place, none is made."""
    tmp_path.chmod(0o777)

    with (
        pytest.raises(ValueError, match=r"can be written by everybody.*`chmod o-w"),
        UnixSocket(tmp_path / "edge.sock", 0o600).made_safely(),
    ):
        pytest.fail("it was made")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to a group that it is not in")
def test_a_folder_that_another_group_can_write(tmp_path: Path) -> None:
    """Where those of another group could put another socket in its place, none is made."""
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o770)

    with (
        pytest.raises(ValueError, match=r"can be written by group 12345.*`chmod g-w"),
        UnixSocket(tmp_path / "edge.sock", 0o600).made_safely(),
    ):
        pytest.fail("it was made")
