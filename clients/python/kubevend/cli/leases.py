"""`kubevend lease`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from kubevend.cli.formats import output_option
from kubevend.cli.names import CONFIG, LEASE, ROLE
from kubevend.cli.where import connection_options, take_settings

Command = TypeVar("Command", bound=Callable[..., Any])

_STATES = ("active", "expired", "pending", "revoking", "revoked", "failed")
_FIELDS = ("role", "config", "namespace", "service_account", "caller", "state")


def filter_options(command: Command) -> Command:
    """Give a command the options that narrow leases."""
    for option in (
        click.option("--state", type=click.Choice(_STATES), help="In this state."),
        click.option("--caller", default="", help="Granted to this caller, as kubernetes://prod/ci/runner."),
        click.option("--service-account", default="", help="For the ServiceAccounts of this name."),
        click.option("-n", "--namespace", default="", help="In this namespace."),
        click.option("--config", default="", shell_complete=CONFIG.complete, help="On this config's cluster."),
        click.option("--role", default="", shell_complete=ROLE.complete, help="Granted through this role."),
    ):
        command = option(command)
    return command


@click.group(
    epilog="""\b
Examples:
  kubevend lease list --role ci --state active
  kubevend lease revoke leases/01jz5k0c7v9qk2m8x3f4t6w1ab
  kubevend lease revoke --caller kubernetes://prod/ci/runner --dry-run
  kubevend lease watch --role ci
"""
)
def lease() -> None:
    """What was granted, to whom, and until when; and its end. NAME is `leases/…`, with or without `leases/`."""


@lease.command(epilog="\b\nExample:\n  kubevend lease get leases/01jz5k0c7v9qk2m8x3f4t6w1ab -o yaml\n")
@click.argument("name")
@output_option
@connection_options
def get(name: str, *, form: str, **connection: Any) -> None:
    """Show a lease."""
    from kubevend.cli.output import show
    from kubevend.client import Client
    from kubevend.v1 import lease_service_pb2 as pb

    with Client(take_settings(connection)) as client:
        found = client.leases.GetLease(pb.GetLeaseRequest(name=LEASE.full(name))).lease
    show(form, found, _columns())


@lease.command(
    "list",
    epilog="\b\nExamples:\n  kubevend lease list\n  kubevend lease list --role ci --state active -o name\n",
)
@filter_options
@click.option("--limit", type=click.IntRange(1), default=500, show_default=True, help="The most to show.")
@output_option
@connection_options
def list_(*, limit: int, form: str, **given: Any) -> None:
    """List the leases that you may get, the newest first."""
    from itertools import islice

    from kubevend.cli.output import show_list
    from kubevend.cli.pages import pages
    from kubevend.client import Client
    from kubevend.v1 import lease_service_pb2 as pb

    narrowed = _take_filter(given)
    with Client(take_settings(given)) as client:

        def page(token: str) -> pb.ListLeasesResponse:
            size = min(limit, 1000)
            return client.leases.ListLeases(pb.ListLeasesRequest(filter=narrowed, page_size=size, page_token=token))

        found = list(islice(pages(page, "leases"), limit + 1))
    show_list(form, "leases", found[:limit], _columns())
    if len(found) > limit:
        click.echo(f"There are more than {limit}; --limit shows more.", err=True)


@lease.command(
    epilog="\b\nExamples:\n  kubevend lease watch --role ci\n  kubevend lease watch -o json | jq .endCause\n"
)
@filter_options
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "name"]), default="table")
@connection_options
def watch(*, form: str, **given: Any) -> None:
    """Tell of leases as they end, until Ctrl-C."""
    from kubevend.cli.watching import watch_leases

    narrowed = _take_filter(given)
    watch_leases(take_settings(given), narrowed, form)


@lease.command(
    epilog="""\b
Examples:
  kubevend lease revoke leases/01jz5k0c7v9qk2m8x3f4t6w1ab
  kubevend lease revoke --role ci --namespace shop --dry-run
  kubevend lease revoke --caller kubernetes://prod/ci/runner
"""
)
@click.argument("names", nargs=-1)
@filter_options
@click.option("--end-shared", is_flag=True, help="End the other leases too that share an anchor with these.")
@click.option("--validate-only", "--dry-run", is_flag=True, help="Tell what would end, and end nothing.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml", "name"]), default="table")
@connection_options
def revoke(names: tuple[str, ...], *, end_shared: bool, validate_only: bool, form: str, **given: Any) -> None:
    """End leases before their time: those named, or all that the options find."""
    from kubevend.cli.output import show_list
    from kubevend.client import Client
    from kubevend.v1 import lease_service_pb2 as pb

    narrowed = _take_filter(given)
    if bool(names) == bool(narrowed.ListFields()):
        raise click.UsageError("Name leases, or say which by options such as --role: one of the two.")
    how = {"end_shared": end_shared, "validate_only": validate_only}
    ended: list[Any] = []
    with Client(take_settings(given)) as client:
        for name in names:
            reply = client.leases.RevokeLease(pb.RevokeLeaseRequest(name=LEASE.full(name), **how))
            ended += [reply.revocation, *reply.others]
        more = not names
        while more:
            found = client.leases.RevokeLeases(pb.RevokeLeasesRequest(filter=narrowed, **how))
            ended += found.revocations
            more = found.more and not validate_only
    columns = (
        ("LEASE", lambda each: each.lease),
        ("STATE", _state),
        ("WORKS UNTIL", lambda each: each.works_until.ToJsonString() if each.HasField("works_until") else "-"),
        ("", lambda each: each.message),
    )
    show_list(form, "revocations", ended, columns)


def _take_filter(given: dict[str, Any]) -> Any:
    from kubevend.v1 import lease_service_pb2 as pb

    fields = {name: given.pop(name) for name in _FIELDS}
    fields["role"] = fields["role"] and ROLE.full(fields["role"])
    fields["config"] = fields["config"] and CONFIG.full(fields["config"])
    state = fields.pop("state")
    return pb.LeaseFilter(**fields, state=pb.Lease.State.Value(f"STATE_{state or 'unspecified'}".upper()))


def _state(each: Any) -> str:
    from kubevend.v1 import lease_service_pb2 as pb

    return pb.Lease.State.Name(each.state).removeprefix("STATE_")


def _columns() -> Sequence[tuple[str, Callable[[Any], str]]]:
    return (
        ("NAME", lambda each: each.name),
        ("ROLE", lambda each: each.role),
        ("FOR", lambda each: f"{each.namespace}/{each.service_account}"),
        ("CALLER", lambda each: each.caller),
        ("STATE", _state),
        ("UNTIL", lambda each: each.expire_time.ToJsonString()),
    )
