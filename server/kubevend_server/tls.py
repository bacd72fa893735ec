"""What the listeners show, and whom they trust: files that something else keeps fresh.

They are looked at every second. What cannot be read or is no pair, since something is writing it, does not count until
it is: the last good goes on. New connections are met with what is good then; open ones stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509

from kubevend_server.certificates import bundle_fault, identity_fault
from kubevend_server.clock import Clock
from kubevend_server.files import WatchedFile, why_unreadable

_LOOK_SECONDS = 1.0
_LATE = 0.1
"""The share of its life that a certificate has left when somebody should have renewed it."""

_log = structlog.get_logger()


class LastGood:
    """The texts of files that belong together, as they last were of use.

    Attributes:
        what: which setting they are, for people.
        texts: those that count.
    """

    def __init__(self, what: str, paths: Sequence[Path], fault: Callable[..., str]) -> None:
        """Read the files.

        Args:
            what: which setting they are, for people.
            paths: theirs.
            fault: takes their texts, and says what is wrong with them; empty where nothing is.

        Raises:
            ValueError: they are of no use, so that there is nothing to go on with.
        """
        self.what = what
        self.texts: tuple[str, ...] = ()
        self._files = [WatchedFile(path) for path in paths]
        self._fault = fault
        self._found = self._told = ""
        wrong = self._read()
        if wrong:
            raise ValueError(f"{what}: {wrong}.")

    @property
    def paths(self) -> list[str]:
        """The files' paths."""
        return [str(file.path) for file in self._files]

    def look(self) -> bool:
        """Read the files again, and say whether there is something new.

        What is wrong with them is told in the log once, and only when a second look finds the same.
        """
        before, wrong = self.texts, self._read()
        if wrong and wrong == self._found and wrong != self._told:
            self._told = wrong
            _log.error("tls_files_unusable", setting=self.what, error=wrong, hint="what was good before goes on")
        if not wrong:
            self._told = ""
        self._found = wrong
        if self.texts == before:
            return False
        _log.info("tls_files_renewed", setting=self.what, files=self.paths)
        return True

    def _read(self) -> str:
        texts = []
        for file in self._files:
            try:
                texts.append(file.read())
            except (OSError, UnicodeDecodeError) as error:
                return f"{file.path} cannot be read ({why_unreadable(error)})"
        if tuple(texts) == self.texts:
            return ""
        wrong = self._fault(*texts)
        if wrong:
            return f"{' and '.join(self.paths)} cannot be used: {wrong}"
        self.texts = tuple(texts)
        return ""


class Identity:
    """The certificate chain of a listener and its key."""

    def __init__(self, listeners: str, certificate: Path, private_key: Path) -> None:
        """Read the files.

        Args:
            listeners: the section of the settings that names them.
            certificate: the chain, PEM.
            private_key: its key, PEM.

        Raises:
            ValueError: they are no pair that could be shown.
        """
        what = f"certificate_file and private_key_file of {listeners}"
        self.files = LastGood(what, (certificate, private_key), identity_fault)

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The key and the chain, as gRPC wants them."""
        certificate, private_key = self.files.texts
        return private_key.encode(), certificate.encode()

    @property
    def life(self) -> tuple[datetime, datetime]:
        """From when until when the certificate is valid."""
        leaf = x509.load_pem_x509_certificate(self.files.texts[0].encode())
        return leaf.not_valid_before_utc, leaf.not_valid_after_utc


class TrustBundle:
    """The authorities of a trust domain: those alone that may vouch for its workloads."""

    def __init__(self, section: str, file: Path) -> None:
        """Read the file.

        Args:
            section: the section of the settings that names it.
            file: the authorities' certificates, PEM.

        Raises:
            ValueError: there is none in it, or something else.
        """
        self.files = LastGood(f"bundle_file of {section}", (file,), bundle_fault)
        self._parsed: tuple[str, tuple[x509.Certificate, ...]] = ("", ())

    @property
    def pem(self) -> bytes:
        """They, PEM."""
        return self.files.texts[0].encode()

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """They; the same object for as long as they are the same."""
        (text,) = self.files.texts
        if self._parsed[0] is not text:
            self._parsed = text, tuple(x509.load_pem_x509_certificates(text.encode()))
        return self._parsed[1]


@dataclass(slots=True)
class Handshake:
    """How a listener meets a new connection.

    Attributes:
        identity: what it shows.
        bundle: who must vouch for the client's certificate; None where it asks for none.
    """

    identity: Identity
    bundle: TrustBundle | None = None
    _given: tuple[object, ...] = field(default=(), repr=False)

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC, which asks at each handshake what is to be shown and trusted from then on."""
        self._given = self._now()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self.renewed,  # type: ignore[arg-type] # None stands for nothing new, which the stubs do not know
            require_client_authentication=self.bundle is not None,
        )

    def _now(self) -> tuple[object, ...]:
        return self.identity.files.texts, self.bundle.files.texts if self.bundle else ()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        roots = self.bundle.pem if self.bundle else None
        return grpc.ssl_server_certificate_configuration([self.identity.pair], root_certificates=roots)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new; None where nothing is. Runs in a thread of gRPC's, one for each listener at a time."""
        now = self._now()
        if now == self._given:
            return None
        self._given = now
        return self._configuration()


class TlsFiles:
    """Keeps what the listeners show and trust as fresh as its files are."""

    def __init__(
        self,
        identities: Sequence[Identity],
        bundles: Sequence[TrustBundle],
        told: Callable[[str, datetime], None],
        clock: Clock,
    ) -> None:
        """Take what is to be kept fresh.

        Args:
            identities: what listeners show.
            bundles: whom they trust.
            told: takes the path of each certificate and until when it is valid, at first and whenever it is another.
            clock: tells when one is about to expire.
        """
        self._identities = identities
        self._bundles = bundles
        self._told = told
        self._clock = clock
        self._warned: set[tuple[str, datetime]] = set()
        for identity in identities:
            self._tell(identity)

    async def run(self) -> None:
        """Look at the files every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look at the files."""
        for bundle in self._bundles:
            bundle.files.look()
        for identity in self._identities:
            if identity.files.look():
                self._tell(identity)
            self._warn(identity)

    def _tell(self, identity: Identity) -> None:
        self._told(identity.files.paths[0], identity.life[1])

    def _warn(self, identity: Identity) -> None:
        began, ends = identity.life
        late = ends - (ends - began) * _LATE
        file = identity.files.paths[0]
        if self._clock() < late or (file, ends) in self._warned:
            return
        self._warned.add((file, ends))
        _log.warning(
            "tls_certificate_expires",
            file=file,
            expires=ends.isoformat(timespec="seconds"),
            hint="put a new certificate and its key into their files; no restart is needed",
        )
