"""`make bench-leases`: how very many leases are listed and ended, and how a server starts on a store that has them."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
import urllib.request
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click
import grpc
import msgspec
import sqlalchemy as sa

from devcluster.server import KubevendServer
from kubevend.v1 import lease_service_pb2 as pb
from kubevend_server.expiry import Expiry
from kubevend_server.leases import LeaseFilter, State
from kubevend_server.store import lease_ends
from kubevend_server.store import leases as store
from kubevend_server.store.database import Database
from kubevend_server.store.schema import leases
from tests.bench.many_leases import (
    CALLERS,
    COMMON,
    CONFIGS,
    NAMESPACES,
    RARE,
    ROLES,
    SERVICE_ACCOUNTS,
    SPAN,
    fill,
)
from tests.bench.table import markdown
from tests.support.plans import plans
from tests.unit.world import World

PAGE_MS, START_SECONDS = 20, 5
LATER = 10
"""Which page is measured as a later one, where there are so many."""
MOST_PAGES = 2000
BURST = 100_000


@dataclass(frozen=True)
class Listing:
    """A filter, as the store and as the API have it."""

    what: str
    narrowed: LeaseFilter


@dataclass(frozen=True)
class Page:
    """A page of a list.

    Attributes:
        what: of which list.
        number: the page's, from 1.
        found: how many leases are on it.
        empty_before: how many pages without a lease come before the first one that has some.
        median_ms: from the request's last byte to the answer's, as a caller on this machine sees it.
        worst_ms: of all times that it was asked for.
    """

    what: str
    number: int
    found: int
    empty_before: int
    median_ms: float
    worst_ms: float


@dataclass(frozen=True)
class Expired:
    """How leases came to their end.

    Attributes:
        due: how many were to end.
        of: how many there were.
        ended: how many rows say afterwards that they have.
        seconds: how long it took, from the first look on.
        stall_ms: for how long at the most nothing else was done on the event loop meanwhile.
    """

    due: int
    of: int
    ended: int
    seconds: float
    stall_ms: float


def main() -> None:
    """Fill a store, measure, print the tables, and write everything to the JSON file."""
    arguments = _parse()
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        click.echo(f"Filling a store with {arguments.count} leases", err=True)
        server = KubevendServer(folder, overrides={"metrics": {"address": "127.0.0.1:0"}})
        filled = _fill(server.store_file, arguments.count, now)
        pages, revoked, facts = _ask(server, now, arguments.repeat)
        explained = _explain(server.store_file, now)
        ends = [
            _expire(server.store_file, folder, now, 1000),
            _expire(server.store_file, folder, now, min(BURST, arguments.count // 4)),
        ]
    facts = {"seconds to fill the store": filled, **facts}
    targets = _targets(pages, facts)
    click.echo("\n\n".join(_render(pages, revoked, facts, ends, explained, targets)))
    report = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "leases": arguments.count,
        "pages": pages,
        "revocations": revoked,
        "facts": facts,
        "ends": ends,
        "plans": explained,
        "targets": targets,
    }
    arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _parse() -> Namespace:
    parser = ArgumentParser("python -m tests.bench.leases", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many leases")
    parser.add_argument("--repeat", type=int, default=11, help="how often each page is asked for")
    parser.add_argument("--output", type=Path, default=Path("bench-leases.json"), help="where to write all figures")
    return parser.parse_args()


def _fill(file: Path, count: int, now: datetime) -> float:
    began = time.monotonic()
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    fill(file, count, now)
    return time.monotonic() - began


def listings(now: datetime) -> list[Listing]:
    """Every single filter, with values that find many and values that find few, and some that are asked together."""
    values: dict[str, dict[str, Any]] = {
        "role": ROLES,
        "config": CONFIGS,
        "namespace": NAMESPACES,
        "service_account": SERVICE_ACCOUNTS,
        "caller": CALLERS,
    }
    day, soon, past = timedelta(days=1), now + timedelta(hours=3), now - SPAN
    ranges: list[tuple[str, dict[str, Any]]] = [
        ("expire_before, nearly all", {"expire_before": now + 40 * day}),
        ("expire_before, half", {"expire_before": now - SPAN / 2}),
        ("expire_before, few", {"expire_before": past + timedelta(minutes=20)}),
        ("expire_after, nearly all", {"expire_after": past}),
        ("expire_after, few", {"expire_after": now + 30 * day}),
        ("expire_after, none", {"expire_after": now + 100 * day}),
        ("create_before, nearly all", {"create_before": now}),
        ("create_before, half", {"create_before": now - SPAN / 2}),
        ("create_before, few", {"create_before": past + timedelta(minutes=20)}),
        ("create_after, nearly all", {"create_after": past}),
        ("create_after, few", {"create_after": now - timedelta(minutes=20)}),
        ("state ACTIVE and expire_before, few", {"state": "ACTIVE", "expire_before": soon}),
        ("role and state ACTIVE", {"role": ROLES[COMMON], "state": "ACTIVE"}),
        ("role and expire_before, few", {"role": ROLES[COMMON], "expire_before": past + timedelta(minutes=20)}),
        ("role and expire_after, few", {"role": ROLES[COMMON], "expire_after": now + 30 * day}),
        ("caller and create_before, few", {"caller": CALLERS[COMMON], "create_before": past + timedelta(minutes=20)}),
    ]
    return [
        Listing("no filter", LeaseFilter()),
        *(
            Listing(f"{field}, {kind}", replace(LeaseFilter(), **{field: value}))
            for field, found in values.items()
            for kind, value in found.items()
        ),
        *(Listing(f"state {state}", LeaseFilter(state=state)) for state in get_args(State)),
        *(Listing(what, replace(LeaseFilter(), **fields)) for what, fields in ranges),
    ]


def _to_proto(narrowed: LeaseFilter) -> pb.LeaseFilter:
    proto = pb.LeaseFilter(
        role=narrowed.role,
        config=narrowed.config,
        namespace=narrowed.namespace,
        service_account=narrowed.service_account,
        caller=narrowed.caller,
        state=pb.Lease.State.Value(f"STATE_{narrowed.state or 'UNSPECIFIED'}"),
    )
    for field in ("expire_before", "expire_after", "create_before", "create_after"):
        moment = getattr(narrowed, field)
        if moment is not None:
            getattr(proto, field).FromDatetime(moment)
    return proto


# A real server, asked over gRPC with TLS.


def _ask(server: KubevendServer, now: datetime, repeat: int) -> tuple[list[Page], list[list[str]], dict[str, float]]:
    facts: dict[str, float] = {}
    with _timed(facts, "seconds until a server serves"):
        server.start()
    try:
        credentials = grpc.ssl_channel_credentials((server.folder / "ca.crt").read_bytes())
        with grpc.secure_channel(server.address, credentials) as channel:
            asker = Asker(channel, server.admin_token)
            pages = [page for listing in listings(now) for page in asker.pages(listing, repeat)]
            revoked = list(_revoke(asker))
        url = f"http://127.0.0.1:{_metrics_port(server)}/metrics"
        scrapes = [_seconds(lambda: urllib.request.urlopen(url).read()) for _ in range(repeat)]
        facts["seconds for the metrics"] = median(scrapes)
        with _timed(facts, "seconds until it has stopped"):
            server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    return pages, revoked, facts


Call = Callable[..., bytes]


class Asker:
    """Asks a server, and takes its answers as bytes: what it costs to read them is not the server's."""

    def __init__(self, channel: grpc.Channel, admin_token: str) -> None:
        service = "/kubevend.v1.LeaseService"
        self._list: Call = channel.unary_unary(f"{service}/ListLeases")
        self._revoke: Call = channel.unary_unary(f"{service}/RevokeLeases")
        self._metadata = (("authorization", f"Bearer {admin_token}"),)

    def pages(self, listing: Listing, repeat: int) -> Iterator[Page]:
        """Measure the first page of a list that has leases, and a later one."""
        request = pb.ListLeasesRequest(filter=_to_proto(listing.narrowed))
        yield self._page(listing, request, 1, 0, repeat)
        empty, number, token = 0, 0, request.page_token
        found = False
        while number < (LATER if found else MOST_PAGES):
            request.page_token = token
            reply = self.list(request)
            number, found = number + 1, found or bool(reply.leases)
            empty += not found
            token = reply.next_page_token
            if not token:
                break
        if number > 1:
            yield self._page(listing, request, number, empty, repeat)

    def _page(self, listing: Listing, request: pb.ListLeasesRequest, number: int, empty: int, repeat: int) -> Page:
        found = len(self.list(request).leases)
        sent = request.SerializeToString()
        took = [_seconds(lambda: self._list(sent, metadata=self._metadata)) * 1000 for _ in range(repeat)]
        return Page(listing.what, number, found, empty, median(took), max(took))

    def list(self, request: pb.ListLeasesRequest) -> pb.ListLeasesResponse:
        """One page."""
        return pb.ListLeasesResponse.FromString(self._list(request.SerializeToString(), metadata=self._metadata))

    def revoke(self, request: pb.RevokeLeasesRequest) -> tuple[pb.RevokeLeasesResponse, float]:
        """End leases. Returns also how many seconds that took."""
        sent, began = request.SerializeToString(), time.monotonic()
        reply = self._revoke(sent, metadata=self._metadata)
        return pb.RevokeLeasesResponse.FromString(reply), time.monotonic() - began


def _revoke(asker: Asker) -> Iterator[list[str]]:
    rare, common = pb.LeaseFilter(caller=CALLERS[RARE]), pb.LeaseFilter(caller=CALLERS[COMMON])
    for what, request in (
        ("caller, rare, validate_only", pb.RevokeLeasesRequest(filter=rare, validate_only=True)),
        ("caller, rare", pb.RevokeLeasesRequest(filter=rare)),
        ("caller, common, validate_only", pb.RevokeLeasesRequest(filter=common, validate_only=True)),
    ):
        reply, seconds = asker.revoke(request)
        yield [what, str(len(reply.revocations)), f"{seconds * 1000:.0f}"]


def _metrics_port(server: KubevendServer) -> int:
    lines = (msgspec.json.decode(line) for line in server.log_file.read_text().splitlines() if line.startswith("{"))
    return next(int(line["port"]) for line in lines if line.get("event") == "metrics")


@contextmanager
def _timed(facts: dict[str, float], what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    facts[what] = time.monotonic() - began


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


# The store, without a server.


def _explain(file: Path, now: datetime) -> dict[str, list[str]]:
    """The plan of each list, of the query for what has run out, of the purge, and of the counts."""
    asked: dict[str, Callable[[sa.Connection], object]] = {
        **{listing.what: _paged(listing.narrowed) for listing in listings(now)},
        "what has run out": lambda connection: lease_ends.due(connection, now, 500),
        "purge": lambda connection: lease_ends.purge(connection, now - SPAN / 2, 500),
        "metrics": lambda connection: store.count(connection, now),
        "last end on a config": lambda connection: store.last_end(connection, CONFIGS[COMMON], now),
    }
    database = Database(f"sqlite:///{file}")
    try:
        return {what: _about_leases(plans(database.writer, work)) for what, work in asked.items()}
    finally:
        database.close()


def _paged(narrowed: LeaseFilter) -> Callable[[sa.Connection], object]:
    return lambda connection: store.page(connection, narrowed, "", 200)


def _about_leases(explained: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """The steps that search the table of leases, each once."""
    steps = [step for _, steps in explained for step in steps if "leases" in step and "PRIMARY" not in step]
    return list(dict.fromkeys(steps)) or list(dict.fromkeys(step for _, steps in explained for step in steps))


def _expire(file: Path, folder: Path, now: datetime, due: int) -> Expired:
    """Let so many leases run out at one moment, the youngest, and end them as the server does."""
    world_file = folder / "world.sqlite"
    file.rename(world_file)
    world = World(folder)
    try:
        moment = now - timedelta(days=1)
        looked = moment + timedelta(microseconds=1)
        chosen = sa.select(leases.c.name).where(leases.c.revocation != "PER_LEASE").order_by(leases.c.name.desc())
        with world.database.writer.begin() as connection:
            of = connection.scalar(sa.select(sa.func.count()).select_from(leases)) or 0
            some = connection.execute(chosen.limit(due)).scalars().all()
            for start in range(0, due, 500):
                mine = leases.c.name.in_(some[start : start + 500])
                connection.execute(
                    sa.update(leases).where(mine).values(state="ACTIVE", expire_time=moment, end_time=None)
                )
        with world.database.writer.connect() as connection:
            # What was prepared is not to be paid for by what is measured.
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        expiry = Expiry(
            world.database,
            world.journal,
            world.anchors,
            world.remover,
            world.in_flight,
            lambda: looked,
        )
        seconds, stall = asyncio.run(_until_nothing_is_due(expiry))
        count = (
            sa.select(sa.func.count())
            .select_from(leases)
            .where(leases.c.end_time == moment + timedelta(microseconds=1))
        )
        ended = world.database.read_now(lambda connection: connection.scalar(count)) or 0
    finally:
        world.close()
        world_file.rename(file)
    return Expired(due, of, ended, seconds, stall * 1000)


async def _until_nothing_is_due(expiry: Expiry) -> tuple[float, float]:
    """How long it took, and for how long at the most the loop did nothing else."""
    gaps = [0.0]

    async def watch() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    began = time.monotonic()
    while await expiry.look():  # noqa: ASYNC110 - as the server does it
        await asyncio.sleep(0)
    took = time.monotonic() - began
    watching.cancel()
    return took, max(gaps)


# What is told of it.


def _targets(pages: Sequence[Page], facts: dict[str, float]) -> list[list[str]]:
    slowest = max(pages, key=lambda page: page.median_ms)
    start = facts["seconds until a server serves"]
    return [
        [
            f"every page in under {PAGE_MS} ms",
            f"{slowest.median_ms:.1f} ms ({slowest.what}, page {slowest.number})",
            _reached(slowest.median_ms < PAGE_MS),
        ],
        [f"a server starts in under {START_SECONDS} s", f"{start:.1f} s", _reached(start < START_SECONDS)],
    ]


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _render(
    pages: Sequence[Page],
    revoked: Sequence[Sequence[str]],
    facts: dict[str, float],
    ends: Sequence[Expired],
    explained: dict[str, list[str]],
    targets: Sequence[Sequence[str]],
) -> Iterator[str]:
    head = ["list", "page", "leases", "empty pages before", "median ms", "worst ms"]
    yield markdown(
        head,
        [
            [
                page.what,
                str(page.number),
                str(page.found),
                str(page.empty_before),
                f"{page.median_ms:.1f}",
                f"{page.worst_ms:.1f}",
            ]
            for page in pages
        ],
    )
    yield markdown(["RevokeLeases", "leases", "ms"], revoked)
    yield markdown(["", "found"], [[what, f"{seconds:.2f}"] for what, seconds in facts.items()])
    head = ["leases that end at one moment", "of", "ended", "seconds", "longest stall ms"]
    yield markdown(head, [[str(e.due), str(e.of), str(e.ended), f"{e.seconds:.2f}", f"{e.stall_ms:.0f}"] for e in ends])
    yield markdown(["plan of", "steps"], [[what, "; ".join(steps)] for what, steps in explained.items()])
    yield markdown(["target", "found", ""], targets)


if __name__ == "__main__":
    main()
