"""kubectl's credentials in files."""

from __future__ import annotations

import json
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread, get_ident
from typing import Any

import pytest

from kubevend.cli import warm
from kubevend.cli.credential_cache import Cache, key_of
from kubevend.cli.kept import Kept
from kubevend.cli.own_folder import FolderError, Lock, OwnFolder
from kubevend.connection import Settings
from kubevend.errors import ClientError, Denied, KubevendError, Unavailable

KEY = "ab12"


def lasting(answer: str = "first", begun: float = 0, life: float = 600) -> Kept:
    """A credential that began so long ago, and lives so long; renewed at four fifths."""
    began = time.time() - begun
    return Kept(answer, began, began + life * 0.8, began + life)


def never(_: bool) -> Kept:
    """An issuance that must not be."""
    raise AssertionError("it was issued anew")


def refuse(_: bool) -> Kept:
    """An issuance that fails."""
    raise Unavailable("away", code="UNAVAILABLE", reason="AWAY")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where credentials are kept."""
    return tmp_path / "cache" / "credentials"


@pytest.fixture
def folder(place: Path) -> Iterator[OwnFolder]:
    """The folder, opened."""
    with OwnFolder(str(place)) as opened:
        yield opened


@pytest.fixture
def warnings() -> list[str]:
    """What was warned of."""
    return []


@pytest.fixture
def cache(folder: OwnFolder, warnings: list[str]) -> Cache:
    """An empty cache."""
    return Cache(folder, warnings.append)


def giving(kept: Kept) -> Callable[[bool], Kept]:
    """An issuance that comes to this."""
    return lambda _: kept


def test_what_is_fresh_is_not_issued_again(cache: Cache) -> None:
    """A credential that is kept is used until four fifths of its life are over, and then issued anew."""
    cache.get(KEY, giving(lasting("first")))
    assert cache.get(KEY, never).answer == "first"
    cache.get("old", giving(lasting("first", begun=500)))
    assert cache.get("old", giving(lasting("second"))).answer == "second"
    assert cache.get("old", never).answer == "second"


def test_one_from_before_the_clock_was_set_back_is_not_used(cache: Cache) -> None:
    """A credential that seems to be issued in the future would seem to live too long."""
    cache.get(KEY, giving(lasting("future", begun=-3600)))
    assert cache.get(KEY, giving(lasting("now"))).answer == "now"


def test_one_of_many_issues(place: Path) -> None:
    """Of many that ask at once one issues, and all get what it got."""
    issued: list[int] = []
    together = Barrier(20)

    def issue(_: bool) -> Kept:
        issued.append(1)
        return lasting(f"answer-{len(issued)}")

    def ask(_: int) -> str:
        with OwnFolder(str(place)) as own:
            together.wait()
            return Cache(own, pytest.fail).get(KEY, issue).answer

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(ask, range(20))) == {"answer-1"}
    assert len(issued) == 1


def test_who_waited_for_a_failure_fails_alike(place: Path) -> None:
    """Of many that ask at once one is refused, and all say why; whoever comes later tries again."""
    waiting: set[int] = set()
    all_wait = Event()

    class Watched(OwnFolder):
        def try_lock(self, name: str) -> Lock | None:
            found = super().try_lock(name)
            if found is None:
                waiting.add(get_ident())
            if len(waiting) == 9:
                all_wait.set()
            return found

    def issue(_: bool) -> Kept:
        tried.append(1)
        assert all_wait.wait(30)
        raise Denied("no", code="PERMISSION_DENIED", reason="ACCESS_DENIED", request_id="r")

    def ask(_: int) -> tuple[str, str, str]:
        with Watched(str(place)) as own, pytest.raises(KubevendError) as refused:
            Cache(own, pytest.fail).get(KEY, issue)
        return refused.value.code, refused.value.reason, refused.value.request_id

    tried: list[int] = []
    with ThreadPoolExecutor(10) as threads:
        assert set(threads.map(ask, range(10))) == {("PERMISSION_DENIED", "ACCESS_DENIED", "r")}
    assert len(tried) == 1
    with OwnFolder(str(place)) as own:
        assert Cache(own, pytest.fail).get(KEY, giving(lasting("later"))).answer == "later"


def test_nobody_waits_for_a_renewal(place: Path, cache: Cache) -> None:
    """While one renews what is still good, the others use that."""
    cache.get(KEY, giving(lasting("good", begun=500)))
    begun, going_on = Event(), Event()

    def issue(has_other: bool) -> Kept:
        assert has_other
        begun.set()
        going_on.wait(30)
        return lasting("next")

    def renew() -> None:
        with OwnFolder(str(place)) as own:
            Cache(own, pytest.fail).get(KEY, issue)

    renewing = Thread(target=renew)
    renewing.start()
    assert begun.wait(30)
    assert cache.get(KEY, never).answer == "good"
    going_on.set()
    renewing.join()
    assert cache.get(KEY, never).answer == "next"


def test_an_outage_is_bridged(cache: Cache, warnings: list[str]) -> None:
    """Where no new one is to be had, the one that is kept is used, for a while without another try; at its end the
    failure shows.
    """
    cache.get(KEY, giving(lasting("kept", begun=500)))
    assert cache.get(KEY, refuse).answer == "kept"
    assert warnings == ["AWAY: away: using the credential that is kept."]
    assert cache.get(KEY, never).answer == "kept"
    cache.get("ended", giving(lasting(begun=601)))
    with pytest.raises(Unavailable):
        cache.get("ended", refuse)


def test_nobody_else_may_read_it(place: Path) -> None:
    """The folder and its files are their owner's alone, whatever the umask."""
    before = os.umask(0)
    try:
        with OwnFolder(str(place)) as own:
            Cache(own, pytest.fail).get(KEY, giving(lasting()))
            Cache(own, pytest.fail).write_note("n.call", "note")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in [place, *place.iterdir()]}
    assert modes == {"credentials": 0o700, f"{KEY}.credential": 0o600, "ab.lock": 0o600, "n.call": 0o600}


def test_a_folder_that_others_may_look_into_is_refused(place: Path) -> None:
    """A folder that is open to others, a link to one, a file, or another user's keeps no credential."""
    place.mkdir(mode=0o755, parents=True)
    with pytest.raises(FolderError, match="chmod 700"):
        OwnFolder(str(place))
    place.chmod(0o700)
    link = place.with_name("link")
    link.symlink_to(place)
    file = place.with_name("file")
    file.touch()
    for other in (link, file):
        with pytest.raises(FolderError):
            OwnFolder(str(other))
    OwnFolder(str(place)).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that is another user's")
def test_another_users_folder_is_refused(place: Path) -> None:
    """A folder that somebody else made first keeps no credential."""
    place.mkdir(mode=0o700, parents=True)
    os.chown(place, 12345, 12345)
    with pytest.raises(FolderError, match="owner 12345"):
        OwnFolder(str(place))


def test_what_is_damaged_is_thrown_away(place: Path, cache: Cache) -> None:
    """A file that is cut, changed or something else is replaced, wherever the damage is."""
    whole = lasting("whole").to_text()
    cuts = [whole[:length] for length in range(0, len(whole), 7)]
    changed = [whole.replace("whole", "other"), whole.replace("/1 ", "/9 "), "{", "\0" * 200, "\n\n\n"]
    file = place / f"{KEY}.credential"
    for content in [*cuts, *changed]:
        file.touch(0o600)
        file.write_text(content)
        assert cache.get(KEY, giving(lasting("new"))).answer == "new"
        assert cache.get(KEY, never).answer == "new"
        file.unlink()


def test_what_others_can_have_put_there_is_not_believed(place: Path, cache: Cache, tmp_path: Path) -> None:
    """A link, a file that is open to others, and a pipe are no credentials; what a link leads to is not touched."""
    planted = lasting("planted").to_text()
    elsewhere = tmp_path / "planted"
    elsewhere.touch(0o600)
    elsewhere.write_text(planted)
    (place / "aa1.credential").symlink_to(elsewhere)
    (place / "aa2.credential").touch(0o644)
    (place / "aa2.credential").write_text(planted)
    os.mkfifo(place / "aa3.credential", 0o600)
    for key in ("aa1", "aa2", "aa3"):
        assert cache.get(key, giving(lasting("own"))).answer == "own"
        assert cache.get(key, never).answer == "own"
    assert elsewhere.read_text() == planted


def test_what_cannot_be_kept_is_used_all_the_same(cache: Cache, folder: OwnFolder, warnings: list[str]) -> None:
    """A token that was issued reaches whoever asked, though the disk is full."""

    def full(name: str, text: str) -> None:
        raise OSError(28, f"No space left on device for {name} of {len(text)}")

    folder.write = full  # type: ignore[method-assign]
    assert cache.get(KEY, giving(lasting("given"))).answer == "given"
    assert len(warnings) == 1
    assert "given" not in warnings[0]


def test_what_has_ended_goes(place: Path, cache: Cache) -> None:
    """A credential that has ended is removed by the next one that is kept, an old note too, and `clear` removes all."""
    cache.get("old", giving(lasting(begun=700)))
    cache.write_note("old.call", "note")
    os.utime(place / "old.call", (1, 1))
    cache.write_note("new.call", "note")
    cache.get("new", giving(lasting()))
    assert sorted(file.name for file in place.iterdir() if file.suffix != ".lock") == ["new.call", "new.credential"]
    assert cache.clear() == 1
    assert [file.name for file in place.iterdir() if file.suffix != ".lock"] == []


def jwt(**claims: Any) -> str:
    """Something with the form of a JWT."""
    return f"e30.{urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


ASKED: dict[str, Any] = {"role": "roles/ci", "namespace": "", "ttl": None, "audiences": []}


def test_all_that_matters_is_in_the_key(tmp_path: Path) -> None:
    """Who asks whom for what tells credentials apart."""
    token, ca, cert = tmp_path / "token", tmp_path / "ca", tmp_path / "cert"
    pod = {"pod": {"name": "a"}, "warnafter": 1}
    token.write_text(jwt(iss="i", sub="a", **{"kubernetes.io": pod}))
    ca.write_text("one")
    cert.write_text("certificate")
    of = Settings("kubevend:7443", token_file=token, ca_file=ca)
    keys = [key_of(ASKED, of)]
    keys += [key_of({**ASKED, **other}, of) for other in ({"role": "roles/b"}, {"ttl": 60}, {"audiences": ["x"]})]
    keys.append(key_of(ASKED, Settings("other:7443", token_file=token, ca_file=ca)))
    keys.append(key_of(ASKED, Settings("kubevend:7443", ca_file=ca, client_cert_file=cert, client_key_file=cert)))
    ca.write_text("two")
    keys.append(key_of(ASKED, of))
    for other in (jwt(iss="i", sub="b"), jwt(iss="j", sub="a"), jwt(iss="i", sub="a", ref="main"), "opaque", "other"):
        token.write_text(other)
        keys.append(key_of(ASKED, of))
    assert len(set(keys)) == len(keys) == 12


def test_a_rotated_token_is_the_same_caller(tmp_path: Path) -> None:
    """The token that Kubernetes puts in place of the one before leads to the credential that is kept."""
    token = tmp_path / "token"
    of = Settings("kubevend:7443", token_file=token)
    keys = set()
    for turn in range(3):
        claims = {"iss": "i", "sub": "a", "exp": turn, "iat": turn, "jti": f"{turn}"}
        token.write_text(jwt(**claims, **{"kubernetes.io": {"pod": {"name": "a"}, "warnafter": turn}}))
        keys.add(key_of(ASKED, of))
    assert len(keys) == 1


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """Without the caller's own credential there is none from the cache either, and the error names the file."""
    with pytest.raises(ClientError, match=r"KUBEVEND_TOKEN_FILE.*gone"):
        key_of(ASKED, Settings("kubevend:7443", token_file=tmp_path / "gone"))


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Path]:
    """A call whose credential is kept, with its note; and a file on which it rests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_EXEC_INFO", raising=False)
    monkeypatch.chdir(tmp_path)
    rests_on = tmp_path / "token"
    rests_on.write_text("one")
    arguments = ["credential", "ci"]
    with OwnFolder(str(tmp_path / "kubevend" / "credentials")) as own:
        cache = Cache(own, pytest.fail)
        cache.get(KEY, giving(lasting("kept")))
        seen = warm.states([str(rests_on), str(tmp_path / "config.yaml")])
        cache.write_note(warm.note_name(arguments), warm.note(f"{KEY}.credential", seen))
    return arguments, rests_on


def test_the_same_call_has_the_same_answer(called: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way answers a call that was made before, and no other one."""
    arguments, _ = called
    assert warm.answer(arguments) == "kept"
    assert warm.answer([*arguments, "--ttl", "30m"]) is None
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", '{"apiVersion":"client.authentication.k8s.io/v1","spec":{}}')
    assert warm.answer(arguments) == "kept"
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", '{"apiVersion":"client.authentication.k8s.io/v1beta1","spec":{}}')
    assert warm.answer(arguments) is None
    monkeypatch.delenv("KUBERNETES_EXEC_INFO")
    monkeypatch.setenv("KUBEVEND_ADDRESS", "other:7443")
    assert warm.answer(arguments) is None


def test_what_a_call_rests_on_is_looked_at(called: tuple[list[str], Path], tmp_path: Path) -> None:
    """When a file that was read changes, or one that was not there appears, the call goes the long way."""
    arguments, rests_on = called
    (tmp_path / "config.yaml").touch()
    assert warm.answer(arguments) is None
    (tmp_path / "config.yaml").unlink()
    assert warm.answer(arguments) == "kept"
    other = tmp_path / "other"
    other.write_text("one")
    other.replace(rests_on)
    assert warm.answer(arguments) is None


def test_the_short_way_looks_at_the_time_and_the_folder(called: tuple[list[str], Path], tmp_path: Path) -> None:
    """What is to be renewed, damaged, or in a folder that is open to others goes the long way."""
    arguments, _ = called
    place = tmp_path / "kubevend" / "credentials"
    file, (note,) = place / f"{KEY}.credential", place.glob("*.call")
    whole, noted = file.read_text(), note.read_text()
    for path, broken in (
        (file, lasting("late", begun=500).to_text()),
        (file, whole[:-3]),
        (note, noted[:30]),
        (note, ""),
    ):
        path.write_text(broken)
        assert warm.answer(arguments) is None
        file.write_text(whole)
        note.write_text(noted)
    place.chmod(0o755)
    assert warm.answer(arguments) is None


def test_a_credential_does_not_show_its_token() -> None:
    """Neither repr nor str has the token."""
    assert "hidden" not in f"{lasting('hidden')!r} {lasting('hidden')}"
