from __future__ import annotations

from datetime import UTC, datetime, timedelta

import protovalidate
from hypothesis import example, given
from hypothesis import strategies as st

from kubevend.v1 import lease_service_pb2
from kubevend_server.names import new_etag, new_lease_name
from tests.unit.builders import NOW

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(MOMENTS)
def test_a_lease_name_fits_its_rule(now: datetime) -> None:
    """A name that we make is one that GetLease takes."""
    protovalidate.validate(lease_service_pb2.GetLeaseRequest(name=new_lease_name(now)))


@given(MOMENTS, st.integers(1, 10**9))
@example(datetime(2023, 11, 14, 22, 13, 20, 1000, tzinfo=UTC) - timedelta(milliseconds=1), 1)
def test_names_sort_by_time(now: datetime, milliseconds: int) -> None:
    """The name of a lease that is granted a millisecond later sorts after the one before."""
    assert new_lease_name(now) < new_lease_name(now + timedelta(milliseconds=milliseconds))


def test_names_of_one_moment_differ() -> None:
    """Leases of the same millisecond have different names."""
    assert len({new_lease_name(NOW) for _ in range(1000)}) == 1000


def test_the_time_is_in_the_name() -> None:
    """The first ten digits are the ULID's time, the milliseconds since the epoch."""
    name = new_lease_name(datetime(2016, 7, 30, 22, 36, 16, 385000, tzinfo=UTC))
    assert name[:17] == "leases/01aryz6s41"


def test_etags_differ() -> None:
    """Each etag is another one."""
    assert len({new_etag() for _ in range(1000)}) == 1000
