"""A folder as the kubelet mounts a ConfigMap."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


class Mounted:
    """Files that are links to a link to a hidden folder, which is swapped as a whole."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which is made where there is none; files that are in it are taken away."""
        self.folder = folder
        self._number = 0
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()

    def swap(self, texts: Mapping[str, str]) -> None:
        """Put other files, by their names, in the place of those that are there, in the order of the kubelet."""
        self._number += 1
        version = self.folder / f"..2026_{self._number}"
        version.mkdir()
        for name, text in texts.items():
            (version / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in texts:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for path in self.folder.iterdir():
            if not path.name.startswith(".") and path.name not in texts:
                path.unlink()
        for old in self.folder.glob("..2026_*"):
            if old != version:
                shutil.rmtree(old)
