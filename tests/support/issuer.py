"""An OIDC issuer of the tests' own: real keys, real tokens, and what it publishes over real HTTPS."""

from __future__ import annotations

import functools
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from devcluster.certificates import make_loopback_certificate
from tests.support.https import reply

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"
SUBJECT = "repo:acme/shop:ref:refs/heads/main"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key; the same for the same name, since making one takes a while."""
    del name
    return rsa.generate_private_key(65537, bits)


def public_jwk(key: PrivateKey, kid: Any = "", **members: Any) -> dict[str, Any]:
    """The public half of a key as a JSON Web Key; `members` that are None are left out."""
    writers: Mapping[type, Callable[..., Any]] = {
        rsa.RSAPrivateKey: RSAAlgorithm.to_jwk,
        ec.EllipticCurvePrivateKey: ECAlgorithm.to_jwk,
        ed25519.Ed25519PrivateKey: OKPAlgorithm.to_jwk,
    }
    (write,) = [writer for kind, writer in writers.items() if isinstance(key, kind)]
    made = {**write(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), "use": "sig", **members}
    return {name: value for name, value in made.items() if value is not None}


def job_token(
    issuer: str, key: PrivateKey, now: datetime, *, kid: str = "", algorithm: str = "RS256", **changed: Any
) -> str:
    """A token such as a job of GitHub Actions gets, for five minutes.

    Args:
        issuer: its `iss`.
        key: what signs it.
        now: the present.
        kid: the key's name, or empty.
        algorithm: with which it is signed.
        changed: other claims; None leaves one out. `headers` are other members of its header.
    """
    headers = {**({"kid": kid} if kid else {}), **changed.pop("headers", {})}
    seconds = int(now.timestamp())
    claims = {
        "iss": issuer,
        "aud": "kubevend",
        "sub": SUBJECT,
        "repository": "acme/shop",
        "repository_owner": "acme",
        "ref": "refs/heads/main",
        "run_attempt": "1",
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds + 300,
        "jti": str(uuid.uuid4()),
        **changed,
    }
    payload = json.dumps({name: value for name, value in claims.items() if value is not None}).encode()
    return jwt.PyJWS().encode(payload, key, algorithm, headers)


class Issuer:
    """An issuer on loopback.

    Attributes:
        ca_file: the CA that vouches for it.
        url: its issuer URL.
        keys: those that it signs with, by their kids; the last one signs.
        published: the JSON Web Keys that it shows; those of `keys` where it is None.
        answers: status, body and headers by path, in place of its own.
        visits: the paths that were asked for.
    """

    def __init__(self, folder: Path) -> None:
        """Make its certificate and a key; nothing listens yet."""
        self.ca_file, self._certificate, self._key_file = make_loopback_certificate(folder)
        self.keys: dict[str, PrivateKey] = {"k1": rsa_key("k1")}
        self.published: list[Any] | None = None
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.visits: list[str] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Once it has started."""
        return f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key_file)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.visits.append(self.path)
                status, body, headers = issuer.answers.get(self.path) or issuer.answer(self.path)
                reply(self, status, body, **headers)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening: who comes is refused the connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """What it answers of its own: status, body and headers."""
        if path == DISCOVERY:
            return 200, json.dumps({"issuer": self.url, "jwks_uri": self.url + KEYS}).encode(), {}
        if path == KEYS:
            own = [public_jwk(key, kid) for kid, key in self.keys.items()]
            return 200, json.dumps({"keys": own if self.published is None else self.published}).encode(), {}
        return 404, b"", {}

    def rotate(self, kid: str) -> None:
        """Sign with another key from now on; the old ones are withdrawn."""
        self.keys = {kid: rsa_key(kid)}

    def token(self, **changed: Any) -> str:
        """A token, as `job_token` makes it."""
        kid, key = list(self.keys.items())[-1]
        return job_token(
            changed.pop("issuer", self.url),
            changed.pop("key", key),
            **{"now": datetime.now(UTC), "kid": kid, **changed},
        )
