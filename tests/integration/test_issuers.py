"""What an OIDC issuer publishes, fetched over real HTTPS; only the age of keys is told."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubevend_server.authentication.discovery import PublishedKeys
from kubevend_server.authentication.fetching import Fetcher, FetchError
from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.errors import Unauthenticated, Unavailable
from kubevend_server.files import WatchedFile
from tests.support.issuer import DISCOVERY, KEYS, Issuer, public_jwk, rsa_key

LARGE = json.dumps({"keys": [], "filler": "x" * (256 << 10)}).encode()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """An issuer with one key."""
    with Issuer(tmp_path) as started:
        yield started


def published(issuer: Issuer, jwks_url: str = "") -> PublishedKeys:
    """Its keys, where its own CA is trusted."""
    return PublishedKeys(issuer.url, jwks_url, frozenset({"RS256"}), Fetcher(WatchedFile(issuer.ca_file)).fetch)


async def test_keys_are_found_by_discovery(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The discovery document leads to the keys; where the settings name their URL it is not asked; no proxy is."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    discovered = await published(issuer).read()
    named = await published(issuer, issuer.url + KEYS).read()
    assert [key.kid for key in discovered] == [key.kid for key in named] == ["k1"]
    assert issuer.visits == [DISCOVERY, KEYS, KEYS]


async def test_what_is_no_public_key_is_left_out(issuer: Issuer) -> None:
    """A symmetric key, a private one and junk beside a good key are no keys, and do it no harm."""
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"}
    private = {**public_jwk(rsa_key("k1"), "private"), "d": "c2VjcmV0"}
    issuer.published = [symmetric, private, "junk", None, public_jwk(rsa_key("k1"), "k1")]
    assert [key.kid for key in await published(issuer).read()] == ["k1"]


@pytest.mark.parametrize(
    ("path", "status", "body", "headers", "words"),
    [
        (DISCOVERY, 302, b"", {"Location": "/elsewhere"}, "redirects, which is not followed"),
        (KEYS, 307, b"", {"Location": "https://127.0.0.1:9/keys"}, "redirects, which is not followed"),
        (DISCOVERY, 404, b"", {}, "answers 404"),
        (KEYS, 500, b"", {}, "answers 500"),
        (KEYS, 204, b"", {}, "answers 204"),
        (DISCOVERY, 200, b"<html>", {}, "is no discovery document"),
        (DISCOVERY, 200, b'{"issuer": "https://127.0.0.1"}', {}, "is no discovery document"),
        (DISCOVERY, 200, LARGE, {}, "answers with more than 256 KiB"),
        (KEYS, 200, LARGE, {}, "answers with more than 256 KiB"),
        (KEYS, 200, b"{}", {}, "it is no JSON Web Key Set"),
        (KEYS, 200, gzip.compress(b'{"keys": []}', mtime=0), {"Content-Encoding": "gzip"}, "it is no JSON Web Key Set"),
        (KEYS, 200, b"", {"X-Long": "x" * 10_000}, "Got more than"),
    ],
)
async def test_what_is_no_answer_is_told(
    issuer: Issuer, path: str, status: int, body: bytes, headers: dict[str, str], words: str
) -> None:
    """A redirect, an error, too much, or something else in the documents' place is refused, with its URL."""
    issuer.answers[path] = (status, body, headers)
    with pytest.raises(FetchError) as refusal:
        await published(issuer).read()
    assert issuer.url + path in str(refusal.value)
    assert words in str(refusal.value)
    assert set(issuer.visits) <= {DISCOVERY, KEYS}


@pytest.mark.parametrize("difference", ["/", ".", " "])
async def test_a_document_of_another_issuer(issuer: Issuer, difference: str) -> None:
    """Where the discovery document names an issuer that is not exactly the one of the settings, no key is asked for."""
    document = {"issuer": issuer.url + difference, "jwks_uri": issuer.url + KEYS}
    issuer.answers[DISCOVERY] = (200, json.dumps(document).encode(), {})
    with pytest.raises(FetchError, match="which is not exactly"):
        await published(issuer).read()
    assert issuer.visits == [DISCOVERY]


async def test_keys_come_over_https_alone(issuer: Issuer, tmp_path: Path) -> None:
    """Keys in clear, from a file, from a server that nobody vouches for, or by a CA file of no use, are refused."""
    for jwks_uri in (issuer.url.replace("https", "http") + KEYS, f"file://{tmp_path}/keys"):
        issuer.answers[DISCOVERY] = (200, json.dumps({"issuer": issuer.url, "jwks_uri": jwks_uri}).encode(), {})
        with pytest.raises(FetchError, match="is no https URL"):
            await published(issuer).read()
    with pytest.raises(FetchError, match="certificate verify failed"):
        await Fetcher().fetch(issuer.url + KEYS)
    ca_file = tmp_path / "other.crt"
    with pytest.raises(FetchError, match="No such file"):
        await Fetcher(WatchedFile(ca_file)).fetch(issuer.url + KEYS)
    ca_file.write_text("no certificate")
    with pytest.raises(FetchError, match="holds no certificates"):
        await Fetcher(WatchedFile(ca_file)).fetch(issuer.url + KEYS)
    assert issuer.visits == [DISCOVERY, DISCOVERY]


async def test_an_issuer_that_never_answers(issuer: Issuer) -> None:
    """What does not answer at all is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/keys"
        with pytest.raises(FetchError, match="no answer in time"):
            await Fetcher(WatchedFile(issuer.ca_file), seconds=0.2).fetch(url)


async def test_keys_rotate_and_issuers_go_down(issuer: Issuer) -> None:
    """A new key is found when a token names it; while the issuer is down the old one counts, and a new one cannot be
    told; once it is up again, it can; a key that was withdrawn is unknown.
    """
    now = 0.0
    keys = IssuerKeys("ci", published(issuer).read, 300, 3600, lambda: now)
    first = await keys.find("k1", "RS256")
    issuer.rotate("k2")
    now += 10
    second = await keys.find("k2", "RS256")
    with pytest.raises(Unauthenticated):
        await keys.find("k1", "RS256")
    issuer.stop()
    now += 3599
    assert await keys.find("k2", "RS256") is second
    with pytest.raises(Unavailable):
        await keys.find("k3", "RS256")
    issuer.rotate("k3")
    issuer.start()
    now += 10
    third = await keys.find("k3", "RS256")
    numbers = [key.public_numbers() for key in (first, second, third)]
    assert numbers == [rsa_key(kid).public_key().public_numbers() for kid in ("k1", "k2", "k3")]
