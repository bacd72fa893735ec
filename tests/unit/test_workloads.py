from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.authentication.spiffe import trust_domain_fault, trust_domain_of, workload_id_fault
from kubevend_server.authentication.workloads import Workloads, vouched_until
from kubevend_server.callers import workload
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import Listener, PeerCertificate
from tests.support.spiffe import Authority, Svid
from tests.unit.builders import shown
from tests.unit.test_authentication import authenticator

ID = "spiffe://example.org/ns/shop/sa/cart"
ORG = Listener("example.org", trust_domain="example.org")

trust_domains = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=255)
segments = st.text(string.ascii_letters + string.digits + ".-_", min_size=1).filter(lambda s: s not in (".", ".."))


class Held:
    """A bundle that a test replaces."""

    def __init__(self, *authorities: Authority) -> None:
        """Hold the roots of authorities."""
        self.authorities = tuple(x509.load_pem_x509_certificate(a.bundle.encode()) for a in authorities)


class Vouched:
    """A certificate of which it is known who has issued it, and that counts how often that is asked."""

    def __init__(self, days: int, *issuers: int) -> None:
        """Live so many days; `issuers` are the places of those that have issued it, in a list of all."""
        self.not_valid_after_utc = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)
        self.issuers = issuers
        self.place = -1
        self.asked = 0

    def verify_directly_issued_by(self, issuer: Vouched) -> None:
        """As a certificate does."""
        self.asked += 1
        if issuer.place not in self.issuers:
            raise InvalidSignature

    def along_every_path(self, others: list[Vouched], roots: list[Vouched]) -> datetime | None:
        """Until when it is vouched for, found out by trying every path that there is."""
        ends = [root.not_valid_after_utc for root in roots if root.place in self.issuers]
        for above in [other for other in others if other.place in self.issuers]:
            end = above.along_every_path([other for other in others if other is not above], roots)
            ends += [end] if end else []
        return min(self.not_valid_after_utc, max(ends)) if ends else None


vouched = st.builds(lambda days, issuers: Vouched(days, *issuers), st.integers(1, 9), st.sets(st.integers(0, 6)))


class Clock:
    """A time of day that moves only when told."""

    now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """It."""
        return self.now


def peer(svid: Svid, *uris: str, chain: str = "") -> PeerCertificate:
    """A certificate as a listener shows it."""
    return PeerCertificate(uris or (ID,), svid.fingerprint, (chain or svid.certificate).encode())


def refusal(workloads: Workloads, certificate: PeerCertificate) -> str:
    """Why a certificate is refused."""
    with pytest.raises(Unauthenticated) as refused:
        workloads.recognize(certificate, "example.org")
    return refused.value.reason


@given(trust_domains, st.lists(segments, min_size=1, max_size=4))
def test_ids_of_workloads(trust_domain: str, path: list[str]) -> None:
    """Every SPIFFE ID with a path that the specification allows is one, in its own trust domain."""
    spiffe_id = f"spiffe://{trust_domain}/{'/'.join(path)}"

    assert workload_id_fault(spiffe_id) == ("" if len(spiffe_id) <= 2048 else "it is longer than 2048 bytes")
    assert trust_domain_of(spiffe_id) == trust_domain


@given(st.text(max_size=30))
def test_what_is_an_id_is_written_as_one(tail: str) -> None:
    """Whatever follows the trust domain, it is an ID only if taking it apart and joining it changes nothing."""
    spiffe_id = f"spiffe://example.org/{tail}"
    allowed = set(string.ascii_letters + string.digits + ".-_/")
    parts = tail.split("/")

    plain = set(tail) <= allowed and all(part not in ("", ".", "..") for part in parts)
    assert (workload_id_fault(spiffe_id) == "") is plain


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("https://example.org/a", "does not begin with spiffe://"),
        ("SPIFFE://example.org/a", "does not begin with spiffe://"),
        ("spiffe:/example.org/a", "does not begin with spiffe://"),
        (" spiffe://example.org/a", "does not begin with spiffe://"),
        ("spiffe:///a", "trust domain is empty"),
        ("spiffe://example.org", "no path"),
        ("spiffe://example.org/", "empty segment or ends in a slash"),
        ("spiffe://example.org/a/", "empty segment or ends in a slash"),
        ("spiffe://example.org//a", "empty segment or ends in a slash"),
        ("spiffe://example.org/a/../b", "the segment '..'"),
        ("spiffe://example.org/.", "the segment '.'"),
        ("spiffe://Example.org/a", "trust domain has other characters"),
        ("spiffe://example.org:443/a", "trust domain has other characters"),
        ("spiffe://user@example.org/a", "trust domain has other characters"),
        ("spiffe://exämple.org/a", "trust domain has other characters"),
        ("spiffe://example.org/a%2fb", "path has other characters"),
        ("spiffe://example.org/a?b", "path has other characters"),
        ("spiffe://example.org/a#b", "path has other characters"),
        ("spiffe://example.org/a b", "path has other characters"),
        ("spiffe://example.org/a\n", "path has other characters"),
        ("spiffe://example.org\n/a", "trust domain has other characters"),
        ("spiffe://example.org/a\x00", "path has other characters"),
        ("spiffe://example.org/ä", "path has other characters"),
        (f"spiffe://{'a' * 256}/a", "longer than 255"),
        (f"spiffe://example.org/{'a' * 2028}", "longer than 2048"),
    ],
)
def test_what_is_no_workloads_id(uri: str, fault: str) -> None:
    """What the specification does not allow, and what names a whole trust domain, is told for what it is."""
    assert fault in workload_id_fault(uri)


@pytest.mark.parametrize("name", ["example.org", "a", "my_domain-1.internal", "a" * 255])
def test_trust_domains(name: str) -> None:
    """A trust domain is lower-case letters, digits, dots, hyphens and underscores."""
    assert trust_domain_fault(name) == ""


def test_a_workload_is_recognized() -> None:
    """A certificate of the trust domain is its workload's, whether its root has signed it or one below."""
    root = Authority()
    workloads = Workloads({"example.org": Held(root)}, Clock())

    for authority in (root, Authority(above=root), Authority(above=Authority(above=root))):
        svid = authority.svid(ID)
        assert workloads.recognize(peer(svid), "example.org") == workload(ID, svid.fingerprint)
        assert workloads.recognize(peer(svid), "example.org").credential_id == svid.fingerprint


def test_each_call_is_held_against_the_clock() -> None:
    """A certificate that was good a moment ago is refused once it, or what stands between it and its root, expires."""
    clock, root = Clock(), Authority()
    workloads = Workloads({"example.org": Held(root)}, clock)
    short = peer(root.svid(ID, life=timedelta(minutes=1)))
    below = peer(Authority(above=root, life=timedelta(minutes=1)).svid(ID))

    for certificate in (short, below):
        clock.now = datetime.now(UTC)
        workloads.recognize(certificate, "example.org")
        clock.now += timedelta(minutes=2)
        assert refusal(workloads, certificate) == "CERTIFICATE_EXPIRED"


def test_each_call_is_held_against_the_bundle() -> None:
    """What an authority has signed counts for as long as it is in the bundle, and again when it is back."""
    old, new = Authority(), Authority()
    bundles = {"example.org": Held(old)}
    workloads = Workloads(bundles, Clock())
    certificate = peer(old.svid(ID))
    workloads.recognize(certificate, "example.org")

    bundles["example.org"] = Held(new)
    assert refusal(workloads, certificate) == "CERTIFICATE_NOT_TRUSTED"
    bundles["example.org"] = Held(new, old)
    workloads.recognize(certificate, "example.org")


def test_nobody_stands_between_who_may_not_sign() -> None:
    """What a workload has signed, or an authority of somebody else's, is nobody's, whatever is sent along."""
    root = Authority()
    workloads = Workloads({"example.org": Held(root)}, Clock())

    for authority in (Authority(above=root, signs=False), Authority(), Authority(above=Authority())):
        svid = authority.svid(ID)
        for more in ("", root.bundle, root.svid(ID).certificate):
            assert refusal(workloads, peer(svid, chain=svid.certificate + more)) == "CERTIFICATE_NOT_TRUSTED"


@given(st.lists(vouched, min_size=7, max_size=7))
def test_the_path_that_lives_longest_is_found_without_trying_all(every: list[Vouched]) -> None:
    """The answer is that of trying every path, however a client has its certificates vouch for each other; but no two
    certificates are held against each other twice.
    """
    for place, certificate in enumerate(every):
        certificate.place = place
    leaf, *between = every[:5]
    roots = every[5:]

    found = vouched_until(*cast("Any", (leaf, between, roots)))

    assert found == leaf.along_every_path(between, roots)
    assert all(certificate.asked <= len(every) for certificate in every)


@pytest.mark.parametrize(
    ("uris", "reason"),
    [
        ((ID, ID), "CERTIFICATE_TWO_URIS"),
        ((ID, "spiffe://other.example/a"), "CERTIFICATE_TWO_URIS"),
        (("",), "CERTIFICATE_NOT_SPIFFE"),
        (("spiffe://example.org",), "CERTIFICATE_NOT_SPIFFE"),
        (("spiffe://other.example/a",), "CERTIFICATE_TRUST_DOMAIN"),
        (("spiffe://example.org.evil/a",), "CERTIFICATE_TRUST_DOMAIN"),
        (("spiffe://xexample.org/a",), "CERTIFICATE_TRUST_DOMAIN"),
    ],
)
def test_names_that_count_nowhere(uris: tuple[str, ...], reason: str) -> None:
    """Anything but one ID of the listener's own trust domain is refused."""
    root = Authority()

    assert refusal(Workloads({"example.org": Held(root)}, Clock()), peer(root.svid(ID), *uris)) == reason


def test_what_is_no_leaf() -> None:
    """A certificate that may sign others, or that cannot be read, is no workload's."""
    root = Authority()
    workloads = Workloads({"example.org": Held(root)}, Clock())
    svid = root.svid(ID)

    assert refusal(workloads, peer(root.svid(ID, signs=True))) == "CERTIFICATE_AUTHORITY"
    assert refusal(workloads, peer(svid, chain="no PEM")) == "CERTIFICATE_MALFORMED"


def test_what_is_remembered_is_bounded() -> None:
    """Ever new certificates are forgotten again."""
    root = Authority()
    workloads = Workloads({"example.org": Held(root)}, Clock(), most=2)

    for _ in range(4):
        workloads.recognize(peer(root.svid(ID)), "example.org")

    assert len(workloads._remembered) == 2


@pytest.mark.parametrize("authorization", ["Bearer x", "Basic x", ""])
async def test_a_certificate_and_a_token_are_two_identities(authorization: str) -> None:
    """Where a certificate is the identity, a call that shows any `authorization` besides is refused."""
    root = Authority()
    known = authenticator()
    both = Authenticator(known.bearer_tokens, Workloads({"example.org": Held(root)}, Clock()), known.proxies)
    certificate = peer(root.svid(ID))

    assert (await both.authenticate(shown({}, ORG, certificate))).name == ID
    with pytest.raises(Unauthenticated) as refused:
        await both.authenticate(shown({"authorization": authorization}, ORG, certificate))
    assert refused.value.reason == "TWO_IDENTITIES"
    assert "leave the token out" in refused.value.message
