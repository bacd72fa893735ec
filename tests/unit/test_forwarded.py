from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kubevend_server.authentication.forwarded import Proxies, Proxy, read_element
from kubevend_server.callers import workload
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import BEARER, Listener

EDGE = "spiffe://example.org/edge"
CART = "spiffe://example.org/ns/shop/sa/cart"
VICTIM = "spiffe://example.org/ns/bank/sa/vault"
HASH = "27eef6ef5d95e9a9c09370f3fd0e9578f26d454427b0d59fc2d301c25fe6d238"
OTHER_HASH = "0" * 64
PROXY = Proxy("edge", frozenset({"example.org"}), spiffe_id=EDGE, by=EDGE)
OWN = f"By={EDGE};Hash={HASH}"
WHOLE = f'{OWN};Subject="";URI={CART}'
FORGED = f"By={EDGE};Hash={OTHER_HASH};URI={VICTIM}"
OPEN = f'By={EDGE}2;Hash={OTHER_HASH};URI={VICTIM};Subject="'


def envoy(
    *,
    sent: str | None = None,
    by: tuple[str, ...] = (EDGE,),
    uris: tuple[str, ...] = (),
    subject: str | None = "",
    names: tuple[str, ...] = (),
) -> str:
    """What Envoy 1.40 makes of the header under APPEND_FORWARD, as tests/integration/test_mesh.py sees it do.

    Args:
        sent: the header of its client.
        by: the URIs of its own certificate.
        uris: of the client's certificate.
        subject: of that; None where it is not told to write it.
        names: the DNS names of that.
    """
    escaped = "".join(f"\\{c}" if c in ',+"\\<>;' else c for c in subject or "")
    pairs = [
        *(f"By={uri}" for uri in by),
        f"Hash={HASH}",
        *([] if subject is None else [f'Subject="{escaped}"']),
        *(f"URI={uri}" for uri in uris or ("",)),
        *(f"DNS={name}" for name in names),
    ]
    return f"{sent},{';'.join(pairs)}" if sent else ";".join(pairs)


def refused(*values: str, proxy: Proxy = PROXY, proxies: tuple[Proxy, ...] = (PROXY,)) -> str:
    """The reason for which the header is refused."""
    with pytest.raises(Unauthenticated) as refusal:
        Proxies(proxies).caller(proxy, values)
    assert refusal.value.metadata["proxy"] == proxy.name
    return refusal.value.reason


@pytest.mark.parametrize(
    "header",
    [
        envoy(uris=(CART,)),
        envoy(uris=(CART,), subject=None),
        envoy(
            uris=(CART,),
            subject='a",URI=spiffe://x/y;b\\',
        ),
        envoy(sent=f"By=spiffe://example.org/other;Hash={OTHER_HASH};URI={VICTIM}", uris=(CART,)),
        envoy(sent=f'URI={VICTIM};Subject="', uris=(CART,), subject="x"),
        envoy(sent='"\\', uris=(CART,)),
        f'By={EDGE};Hash={HASH};Cert="-----BEGIN%20CERTIFICATE-----%0A";Chain="x";Subject="";URI={CART}',
        envoy(sent=FORGED.upper(), uris=(CART,)),
    ],
)
def test_the_element_of_the_proxy_counts(header: str) -> None:
    """Whatever a client has sent before it, the caller is whom the proxy's own element names."""
    assert Proxies([PROXY]).caller(PROXY, [header]) == workload(CART, HASH, proxy="edge")
    assert read_element(PROXY, [header]) == (CART, HASH)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((), "FORWARDED_MALFORMED"),
        (("",), "FORWARDED_MALFORMED"),
        ((WHOLE, WHOLE), "FORWARDED_MALFORMED"),
        ((f"URI={VICTIM}", WHOLE), "FORWARDED_MALFORMED"),
        ((f"URI={VICTIM}",), "FORWARDED_MALFORMED"),
        ((f"Hash={HASH};URI={CART}",), "FORWARDED_MALFORMED"),
        ((envoy(by=("spiffe://example.org/else",), uris=(CART,)),), "FORWARDED_MALFORMED"),
        ((envoy(by=("spiffe://example.org/else", EDGE), uris=(CART,)),), "FORWARDED_MALFORMED"),
        ((envoy(by=(EDGE, "spiffe://example.org/else"), uris=(CART,)),), "FORWARDED_MALFORMED"),
        ((f"By={EDGE};Hash={HASH.upper()};URI={CART}",), "FORWARDED_MALFORMED"),
        ((f"By={EDGE};Hash={HASH[1:]};URI={CART}",), "FORWARDED_MALFORMED"),
        ((f"{WHOLE};",), "FORWARDED_MALFORMED"),
        ((f"{WHOLE},",), "FORWARDED_MALFORMED"),
        ((f"{WHOLE},URI={VICTIM}",), "FORWARDED_MALFORMED"),
        ((f"{WHOLE};Hash={OTHER_HASH}",), "FORWARDED_MALFORMED"),
        ((f'{OWN};URI={CART};Subject="x',), "FORWARDED_MALFORMED"),
        ((f'{OWN};URI={CART};Subject="x\\"',), "FORWARDED_MALFORMED"),
        ((f'{OWN};URI={CART}"',), "FORWARDED_MALFORMED"),
        ((f"{OWN}; URI={CART}",), "FORWARDED_MALFORMED"),
        ((f"\x00{WHOLE}",), "FORWARDED_MALFORMED"),
        ((f"é,{WHOLE}",), "FORWARDED_MALFORMED"),
        ((f"{'x' * (16 << 10)},{WHOLE}",), "FORWARDED_MALFORMED"),
        ((f"{FORGED},{WHOLE}",), "FORWARDED_AMBIGUOUS"),
        ((f"{WHOLE},{FORGED}",), "FORWARDED_AMBIGUOUS"),
        ((f"by={EDGE};hash={HASH};uri={CART}",), "FORWARDED_MALFORMED"),
        ((envoy(uris=(CART,), names=(f"x,{FORGED}",)),), "FORWARDED_AMBIGUOUS"),
        ((envoy(uris=(CART,), names=(f"x,URI={VICTIM}",)),), "FORWARDED_MALFORMED"),
        ((envoy(uris=(CART,), names=(f"x;URI={VICTIM}",)),), "FORWARDED_MALFORMED"),
        ((envoy(uris=(CART,), names=("cart", "cart.shop")),), "FORWARDED_DNS_NAMES"),
        ((envoy(uris=(f"{VICTIM};DNS=cart",)),), "FORWARDED_DNS_NAMES"),
        ((envoy(uris=(CART, VICTIM)),), "FORWARDED_URIS"),
        ((OWN,), "FORWARDED_URIS"),
        ((envoy(),), "FORWARDED_NOT_SPIFFE"),
        ((envoy(uris=(f'"{VICTIM}"',)),), "FORWARDED_MALFORMED"),
        ((envoy(uris=("https://example.org/cart",)),), "FORWARDED_NOT_SPIFFE"),
        ((envoy(uris=("spiffe://example.org",)),), "FORWARDED_NOT_SPIFFE"),
        ((envoy(uris=("spiffe://elsewhere/cart",)),), "FORWARDED_TRUST_DOMAIN"),
        ((envoy(uris=(EDGE,)),), "PROXY_CHAIN"),
        ((envoy(uris=("spiffe://example.org/inner",)),), "PROXY_CHAIN"),
    ],
)
def test_what_does_not_say_who_calls_is_refused(values: tuple[str, ...], reason: str) -> None:
    """What the proxy has not written, not wholly, twice, or not about one workload that it may name, is refused."""
    inner = Proxy("inner", frozenset({"example.org"}), by="spiffe://example.org/inner")

    assert refused(*values, proxies=(PROXY, inner)) == reason


HOSTILE = st.lists(
    st.sampled_from(
        [
            *('"', "\\", ",", ";", "=", " ", "\x00", "é", "x", "By=", "Hash=", "hash=", "URI=", "DNS=", 'Subject="'),
            *(EDGE, VICTIM, CART, HASH, OTHER_HASH, OWN, OWN.lower(), FORGED, OPEN, f",{FORGED}", f";URI={VICTIM}"),
        ]
    ),
    max_size=6,
).map("".join)


SENT = st.none() | HOSTILE
URIS = st.lists(HOSTILE | st.just(CART), max_size=2).map(tuple)
SUBJECT = st.none() | HOSTILE
NAMES = st.lists(HOSTILE, max_size=2).map(tuple)


@given(sent=SENT, uris=URIS, subject=SUBJECT, names=NAMES, by=st.sampled_from([EDGE, ""]))
@example(sent=None, uris=(f'"{VICTIM}"',), subject="", names=(), by=EDGE)
@example(sent=None, uris=(f"{CART},{FORGED}",), subject="", names=(), by=EDGE)
@example(sent=None, uris=(f"{VICTIM};DNS=cart",), subject="", names=(), by=EDGE)
@example(sent=OPEN, uris=(f'{CART}";X=x',), subject=None, names=(), by=EDGE)
@example(sent=f"URI={VICTIM}", uris=(CART,), subject="", names=("cart",), by="")
def test_nobody_can_have_a_proxy_say_what_it_does_not(
    sent: str | None, uris: tuple[str, ...], subject: str | None, names: tuple[str, ...], by: str
) -> None:
    """For any header of a client and any certificate: the URI that the proxy has written, or a refusal."""
    header = envoy(sent=sent, uris=uris, subject=subject, names=names, by=(by,) if by else ())

    try:
        found = read_element(Proxy("edge", frozenset({"example.org"}), by=by), [header])
    except Unauthenticated:
        return
    assert found == ("".join(uris), HASH)
    assert len(uris) < 2


@given(
    sent=SENT,
    uris=URIS,
    subject=SUBJECT,
    names=NAMES,
    by=st.sampled_from([(f"{EDGE}2",), (EDGE, f"{EDGE}2"), ()]),
)
@example(sent=f'{OWN};Subject="', uris=(f'x";URI={VICTIM}',), subject=None, names=(), by=(f"{EDGE}2",))
@example(sent=f'{FORGED};Subject="', uris=(f'{CART}";X=x',), subject=None, names=(), by=())
def test_a_mark_that_the_proxy_does_not_write_is_nobody_elses(
    sent: str | None, uris: tuple[str, ...], subject: str | None, names: tuple[str, ...], by: tuple[str, ...]
) -> None:
    """Where the settings name a URI that the proxy does not write, no client can write it in its place."""
    assume(not any(PROXY.mark in text for text in (*uris, *names)))

    with pytest.raises(Unauthenticated):
        read_element(PROXY, [envoy(sent=sent, uris=uris, subject=subject, names=names, by=by)])


@given(st.text(max_size=300) | HOSTILE)
def test_any_header_is_read_or_refused(header: str) -> None:
    """No header makes the parser fail in another way."""
    try:
        Proxies([PROXY]).caller(PROXY, [header])
    except Unauthenticated:
        return


def test_who_is_a_proxy() -> None:
    """A proxy is known by its certificate, or by the socket that is its own; nobody else is one."""
    local = Proxy("local", frozenset({"example.org"}))
    proxies = Proxies([PROXY, local])

    assert proxies.find(Listener("example.org", trust_domain="example.org"), EDGE) is PROXY
    assert proxies.find(Listener("local", proxy="local"), "") is local
    assert proxies.find(Listener("example.org", trust_domain="example.org"), CART) is None
    assert proxies.find(BEARER, "") is None
