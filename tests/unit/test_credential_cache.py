"""kubectl's credentials in files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from kubevend.cli.credential_cache import Cache, CacheError, Credential, key_of


def lasting(seconds: float, token: str = "t", begun: float = 0.0) -> Credential:
    """A credential that began so long ago, and lives so long."""
    began = time.time() - begun
    return Credential(token, began, began + seconds)


def never() -> Credential:
    """An issuance that must not be."""
    raise AssertionError("it was issued anew")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where credentials are kept."""
    return tmp_path / "credentials"


def test_what_is_fresh_is_not_issued_again(folder: Path) -> None:
    """A credential that is kept is used until four fifths of its life are over, and then issued anew."""
    Cache(folder).get("k", lambda: lasting(600, "first"))
    assert Cache(folder).get("k", never).token == "first"
    Cache(folder).get("old", lambda: lasting(600, "first", begun=500))
    assert Cache(folder).get("old", lambda: lasting(600, "second")).token == "second"


def test_one_of_many_issues(folder: Path) -> None:
    """Of many that ask at once one issues, and all get what it got."""
    issued: list[int] = []
    together = Barrier(20)

    def issue() -> Credential:
        issued.append(1)
        return lasting(600, f"token-{len(issued)}")

    def ask(_: int) -> str:
        together.wait()
        return Cache(folder).get("k", issue).token

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(ask, range(20))) == {"token-1"}
    assert len(issued) == 1


def test_an_outage_is_bridged(folder: Path) -> None:
    """Where no new one is to be had, the one that is kept is used until its end, and then the failure shows."""

    def fail() -> Credential:
        raise ConnectionError

    Cache(folder).get("k", lambda: lasting(600, "kept", begun=500))
    assert Cache(folder).get("k", fail).token == "kept"
    Cache(folder).get("ended", lambda: lasting(600, begun=595))
    with pytest.raises(ConnectionError):
        Cache(folder).get("ended", fail)


def test_nobody_else_may_read_it(folder: Path) -> None:
    """The folder and its files are their owner's alone, whatever the umask."""
    before = os.umask(0)
    try:
        Cache(folder).get("k", lambda: lasting(600))
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in [folder, *folder.iterdir()]}
    assert modes == {"credentials": 0o700, "k": 0o600, "k.lock": 0o600}


def test_a_folder_that_others_may_look_into_is_refused(folder: Path) -> None:
    """A folder that is open to others, or a link to one, keeps no credential."""
    folder.mkdir(mode=0o755)
    with pytest.raises(CacheError, match="chmod 700"):
        Cache(folder)
    link = folder.with_name("link")
    folder.chmod(0o700)
    link.symlink_to(folder)
    with pytest.raises(CacheError):
        Cache(link)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 1}', '{"token":"x","begins":"a","ends":"b"}'])
def test_what_is_no_credential_is_made_anew(folder: Path, content: str) -> None:
    """A file that is half written, or somebody else's, is replaced."""
    cache = Cache(folder)
    (folder / "k").touch(0o600)
    (folder / "k").write_text(content)
    assert cache.get("k", lambda: lasting(600, "new")).token == "new"
    assert cache.get("k", never).token == "new"


def test_a_link_or_an_open_file_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """What could have been put there by others is not used."""
    cache = Cache(folder)
    kept = {"token": "planted", "begins": time.time(), "ends": time.time() + 600}
    elsewhere = tmp_path / "planted"
    elsewhere.write_text(json.dumps(kept))
    elsewhere.chmod(0o600)
    (folder / "link").symlink_to(elsewhere)
    (folder / "open").write_text(json.dumps(kept))
    (folder / "open").chmod(0o644)
    for key in ("link", "open"):
        assert cache.get(key, lambda: lasting(600, "own")).token == "own"
    assert json.loads(elsewhere.read_text()) == kept


def test_what_ended_long_ago_goes(folder: Path) -> None:
    """The file of a credential that ended more than a day ago is removed by the next one that is kept."""
    cache = Cache(folder)
    cache.get("old", lambda: lasting(600, begun=700))
    os.utime(folder / "old", (1, 1))
    cache.get("new", lambda: lasting(600))
    assert sorted(file.name for file in folder.iterdir()) == ["new", "new.lock", "old.lock"]


def settings(**given: Any) -> Any:
    """Where and by whom."""
    nothing = {"ca_file": None, "token_file": None, "client_cert_file": None, "client_key_file": None}
    return SimpleNamespace(**{"address": "kubevend:7443", **nothing, **given})


def jwt(**claims: str) -> str:
    """Something with the form of a JWT."""
    from base64 import urlsafe_b64encode

    return f"e30.{urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def test_all_that_matters_is_in_the_key(tmp_path: Path) -> None:
    """Who asks whom for what tells credentials apart; that a token was rotated does not."""
    asked = {"role": "roles/ci", "namespace": "", "ttl": None}
    token, ca = tmp_path / "token", tmp_path / "ca"
    token.write_text(jwt(iss="i", sub="a", jti="1"))
    ca.write_text("one")
    of = settings(token_file=token, ca_file=ca)
    base = key_of(asked, of)
    others = {
        key_of({**asked, "role": "roles/other"}, of),
        key_of({**asked, "namespace": "x"}, of),
        key_of(asked, settings(token_file=token, ca_file=ca, address="other:7443")),
    }
    token.write_text(jwt(iss="i", sub="a", jti="2"))
    assert key_of(asked, of) == base
    token.write_text(jwt(iss="i", sub="b"))
    others.add(key_of(asked, of))
    token.write_text("an-opaque-token")
    others.add(key_of(asked, of))
    token.write_text(jwt(iss="i", sub="a"))
    ca.write_text("two")
    others.add(key_of(asked, of))
    assert len(others - {base}) == 6


def test_a_credential_does_not_show_its_token() -> None:
    """Neither repr nor str has the token."""
    assert "hidden" not in f"{lasting(600, 'hidden')!r}"


def test_little_is_loaded_for_a_credential_that_is_kept() -> None:
    """On the way to a kept credential neither gRPC nor protobuf nor YAML is loaded, which take longer than all else."""
    script = "import sys, kubevend.cli.root, kubevend.cli.credential; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"grpc", "google.protobuf", "yaml", "kubernetes"} & set(loaded)
