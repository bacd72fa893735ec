from __future__ import annotations

import pytest

from tests.unit.builders import call


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:[2001:db8::1]:51234", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:51234", "2001:db8::1"),
        ("ipv6:%5B::1%5D:33944", "::1"),
        ("ipv6:[fe80::1%eth0]:51234", "fe80::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "fe80::1"),
        ("unix:/run/kubevend.sock", ""),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_peers_address_is_taken_out_of_grpcs_form(peer: str, address: str) -> None:
    """Policies that ask for `context.source` get the peer's IP address: gRPC percent-encodes the brackets of IPv6
    (grpc 1.85: `ipv6:%5B::1%5D:33944`), and other peers have none.
    """
    assert call(peer=peer).source_ip == address


def test_a_call_that_nobody_authenticated_has_no_who() -> None:
    """Asking who calls before it is known is a defect, not an anonymous caller."""
    assert call().who.name == "admin://local/bootstrap"
    with pytest.raises(RuntimeError):
        _ = call(caller=None).who
