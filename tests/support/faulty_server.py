"""A kubevend-server that a test can let die, or hold, at any of `checkpoints.PLACES`.

It is run through `KubevendServer(command=...)`, with the folder of a `FaultSwitch` in its environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from pathlib import Path

import uvloop

from kubevend_server import app, logs, settings
from kubevend_server.checkpoints import PLACES
from tests.support.waiting import until

COMMAND = (sys.executable, "-m", "tests.support.faulty_server")
FOLDER = "KUBEVEND_TEST_FAULTS"


class FaultSwitch:
    """The test's side: says at which place something is to happen, and sees what has come there."""

    def __init__(self, folder: Path) -> None:
        """Take a folder of its own."""
        folder.mkdir()
        self._folder = folder
        self.environment = {FOLDER: str(folder)}

    def hold(self, place: str) -> None:
        """From now on all that reaches a place waits there, until `release`."""
        self._set(place, 0)

    def kill(self, place: str, arrivals: int) -> None:
        """The process kills itself once so much waits at a place."""
        self._set(place, arrivals)

    def _set(self, place: str, deadly: int) -> None:
        assert place in PLACES
        # Renamed, so that it is there as a whole.
        (self._folder / "new").write_text(json.dumps({"place": place, "deadly": deadly}))
        (self._folder / "new").rename(self._folder / "fault")

    @property
    def arrivals(self) -> int:
        """How much waits at the place."""
        return len(list(self._folder.glob("arrived-*")))

    def await_arrivals(self, count: int) -> None:
        """Wait until so much waits at the place."""
        until(lambda: self.arrivals >= count, f"{count} to come to the place", 60)

    def release(self) -> None:
        """Let all go on, and nothing wait any more."""
        (self._folder / "fault").unlink(missing_ok=True)
        for file in self._folder.glob("arrived-*"):
            file.unlink()


class _Faults:
    """The server's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def reach(self, place: str) -> None:
        """Wait or die, if the test says so."""
        fault = self._fault()
        if fault is None or fault["place"] != place:
            return
        (self._folder / f"arrived-{uuid.uuid4()}").touch()
        # Where it is only to wait, nothing is deadly: `release` may take its file away in between, and leave none.
        if fault["deadly"] and len(list(self._folder.glob("arrived-*"))) == fault["deadly"]:
            os.kill(os.getpid(), signal.SIGKILL)
        while self._fault() == fault:  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(0.005)

    def _fault(self) -> dict[str, object] | None:
        try:
            found: dict[str, object] = json.loads((self._folder / "fault").read_text())
        except FileNotFoundError:
            return None
        return found


def main() -> None:
    """Serve, as `kubevend-server serve --settings FILE` does."""
    found = settings.load(Path(sys.argv[sys.argv.index("--settings") + 1]))
    logs.configure(found.log_level)
    faults = _Faults(Path(os.environ[FOLDER]))
    uvloop.run(app.serve(found, checkpoint=faults.reach))


if __name__ == "__main__":
    main()
