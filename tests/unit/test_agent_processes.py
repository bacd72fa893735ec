"""The processes that the agent starts."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kubevend.agent.processes import Processes
from kubevend.agent.wakeups import Wakeups
from tests.support.waiting import until


def end_of(script: str, act: Callable[[int], None] = lambda _: None) -> int:
    """Run a shell script as the agent would, do something meanwhile, and return how it ended."""
    processes, ended = Processes(), list[int]()
    with Wakeups() as wakeups:
        act(processes.start(["sh", "-c", script], os.environ, ended.append))
        while not ended:
            if signal.SIGCHLD in wakeups.wait(1):
                processes.reap()
    return ended[0]


def test_an_end_is_told_as_shells_do() -> None:
    """An exit code is told as it is, a signal as 128 and its number."""
    assert end_of("exit 3") == 3
    assert end_of("sleep 600", lambda process: os.kill(process, signal.SIGKILL)) == 137


def test_a_process_inherits_nothing_odd(tmp_path: Path) -> None:
    """A process has none of the agent's files, no signal ignored, and none blocked."""
    told = tmp_path / "told"
    with (tmp_path / "open").open("w") as file:
        # By the shell itself, which blocks signals for the moment in which it starts another program.
        read = "while read name mask; do case $name in SigBlk:|SigIgn:) echo $name $mask;; esac; done"
        assert end_of(f"test ! -e /proc/$$/fd/{file.fileno()} && {read} </proc/self/status >{told}") == 0
    masks = [int(line.split()[1], 16) for line in told.read_text().splitlines()]
    assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0]  # 32 and 33 are glibc's own


AT_A_TERMINAL = """
import fcntl, os, signal, termios
from kubevend.agent.processes import Processes
from kubevend.agent.running import _give_terminal
from kubevend.agent.wakeups import Wakeups

fcntl.ioctl(0, termios.TIOCSCTTY)
processes, ended, got = Processes(), [], []
script = "read word; echo got $word; trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
with Wakeups() as wakeups:
    _give_terminal(processes.start(["bash", "-c", script], os.environ, ended.append, takes_input=True))
    while not ended:
        got += (signals := wakeups.wait(1))
        if signal.SIGCHLD in signals:
            processes.reap()
print("ended", ended, "INT" if signal.SIGINT in got else "no INT")
"""


def test_a_terminal_is_the_childs() -> None:
    """What is typed goes to the child, and Ctrl-C to the child alone, which is in a process group of its own."""
    terminal, inside = pty.openpty()
    shown = bytearray()

    def see(what: bytes) -> None:
        def look() -> bool:
            if select.select([terminal], [], [], 0)[0]:
                shown.extend(os.read(terminal, 1000))
            return what in shown

        until(look, what.decode())

    command = [sys.executable, "-c", AT_A_TERMINAL]
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True) as agent:
        try:
            os.write(terminal, b"hello\n")
            see(b"got hello")
            see(b"ready")
            os.write(terminal, b"\x03")
            see(b"ended [9] no INT")
        finally:
            agent.kill()
    os.close(terminal)
    os.close(inside)
