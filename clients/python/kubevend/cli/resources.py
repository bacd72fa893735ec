"""`kubevend role` and `kubevend config`: what there is, made and changed from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

from kubevend.cli.where import connection_options, take_settings

Cell = Callable[[Any], str]


@dataclass(frozen=True)
class Kind:
    """A kind of resource.

    Attributes:
        noun: `role`.
        plural: `roles`, with which its names begin.
        columns: of its table.
        example: a file with one.
    """

    noun: str
    plural: str
    columns: Sequence[tuple[str, Cell]]
    example: str

    def full(self, name: str) -> str:
        """`ci` and `roles/ci` are both `roles/ci`."""
        return name if name.startswith(f"{self.plural}/") else f"{self.plural}/{name}"

    def types(self) -> Any:
        """The module with its messages."""
        from kubevend.v1 import config_service_pb2, role_service_pb2

        return role_service_pb2 if self.noun == "role" else config_service_pb2

    def message(self, verb: str, **fields: Any) -> Any:
        """A request, as `GetRoleRequest`."""
        what = self.plural if verb == "List" else self.noun
        return getattr(self.types(), f"{verb}{what.capitalize()}Request")(**fields)

    def call(self, client: Any, request: Any) -> Any:
        """Call the method that takes a request."""
        return getattr(getattr(client, self.plural), type(request).__name__.removesuffix("Request"))(request)


ROLE = Kind(
    "role",
    "roles",
    (
        ("NAME", lambda role: role.name),
        ("CONFIG", lambda role: role.config),
        ("NAMESPACES", lambda role: _few(role.allowed_namespaces, "by label")),
        ("SERVICEACCOUNTS", lambda role: _few(role.allowed_service_accounts, "made for each lease")),
        ("TTL", lambda role: role.ttl.ToJsonString() if role.HasField("ttl") else "-"),
    ),
    """{name: roles/ci, config: configs/default, allowedNamespaces: [shop], allowedServiceAccounts: [deployer],
   allowedAudiences: ["https://kubernetes.default.svc"], ttl: 900s}""",
)
CONFIG = Kind(
    "config",
    "configs",
    (
        ("NAME", lambda config: config.name),
        ("HOST", lambda config: config.kubernetes_host or "the pod's own cluster"),
        ("CREDENTIAL", lambda config: (config.WhichOneof("credential") or "in_cluster").replace("_", " ")),
    ),
    "{name: configs/prod, kubernetesHost: 'https://10.0.0.1:6443', tokenFile: /run/kubevend/prod.token}",
)


def _few(items: Sequence[str], none: str) -> str:
    shown = ", ".join(items[:3])
    return f"{shown}, …" if len(items) > 3 else shown or none  # noqa: PLR2004 - as many as are shown


def _group(kind: Kind) -> click.Group:
    noun = kind.noun
    group = click.Group(noun, help=f"{noun.capitalize()}s. NAME is `ci` or `{kind.plural}/ci`.")
    for command in (_get(kind), _list(kind), _create(kind), _update(kind), _delete(kind)):
        group.add_command(command)
    return group


def _get(kind: Kind) -> click.Command:
    from kubevend.cli.formats import output_option

    @click.command(
        "get", help=f"Show a {kind.noun}.", epilog=f"\b\nExample:\n  kubevend {kind.noun} get ci -o yaml > ci.yaml\n"
    )
    @click.argument("name")
    @output_option
    @connection_options
    def get(name: str, *, form: str, **connection: Any) -> None:
        from kubevend.cli.output import show
        from kubevend.client import Client

        with Client(take_settings(connection)) as client:
            reply = kind.call(client, kind.message("Get", name=kind.full(name)))
        show(form, getattr(reply, kind.noun), kind.columns)

    return get


def _list(kind: Kind) -> click.Command:
    from kubevend.cli.formats import output_option

    @click.command("list", help=f"List the {kind.plural} that you may get.")
    @output_option
    @connection_options
    def list_(*, form: str, **connection: Any) -> None:
        from kubevend.cli.output import show_list
        from kubevend.cli.pages import pages
        from kubevend.client import Client

        with Client(take_settings(connection)) as client:
            found = list(pages(lambda token: kind.call(client, kind.message("List", page_token=token)), kind.plural))
        show_list(form, kind.plural, found, kind.columns)

    return list_


def _create(kind: Kind) -> click.Command:
    @click.command(
        "create",
        help=f"Make {kind.plural} from a file, YAML or JSON; `-` is stdin.",
        epilog=f"\b\nExample:\n  kubevend {kind.noun} create -f - <<EOF\n  {kind.example}\n  EOF\n",
    )
    @click.option("-f", "--file", type=click.File(), required=True, help="where they are; `-` for stdin")
    @click.option("--validate-only", "--dry-run", is_flag=True, help="check everything, and make nothing")
    @connection_options
    def create(file: TextIO, *, validate_only: bool, **connection: Any) -> None:
        def request(resource: Any) -> Any:
            fields = {kind.noun: resource, f"{kind.noun}_id": resource.name.removeprefix(f"{kind.plural}/")}
            return kind.message("Create", validate_only=validate_only, **fields)

        _write(kind, file, take_settings(connection), request, "would be created" if validate_only else "created")

    return create


def _update(kind: Kind) -> click.Command:
    @click.command(
        "update",
        help=f"Change {kind.plural} to what a file says of them, all of it. With an `etag` in it, only if nobody else "
        "has changed them since.",
        epilog=f"\b\nExample:\n  kubevend {kind.noun} get ci -o yaml > ci.yaml; $EDITOR ci.yaml\n"
        f"  kubevend {kind.noun} update -f ci.yaml\n",
    )
    @click.option("-f", "--file", type=click.File(), required=True, help="where they are; `-` for stdin")
    @click.option("--validate-only", "--dry-run", is_flag=True, help="check everything, and change nothing")
    @connection_options
    def update(file: TextIO, *, validate_only: bool, **connection: Any) -> None:
        def request(resource: Any) -> Any:
            fields = {kind.noun: resource, "update_mask": {"paths": ["*"]}}
            return kind.message("Update", validate_only=validate_only, **fields)

        _write(kind, file, take_settings(connection), request, "would be updated" if validate_only else "updated")

    return update


def _delete(kind: Kind) -> click.Command:
    @click.command("delete", help=f"Delete {kind.plural}. Leases that were granted through them live on.")
    @click.argument("names", nargs=-1, required=True)
    @click.option("--validate-only", "--dry-run", is_flag=True, help="check everything, and delete nothing")
    @connection_options
    def delete(names: tuple[str, ...], *, validate_only: bool, **connection: Any) -> None:
        from kubevend.client import Client

        with Client(take_settings(connection)) as client:
            for name in names:
                kind.call(client, kind.message("Delete", name=kind.full(name), validate_only=validate_only))
                click.echo(f"{kind.full(name)} {'would be deleted' if validate_only else 'deleted'}")

    return delete


def _write(kind: Kind, file: TextIO, settings: Any, request: Callable[[Any], Any], done: str) -> None:
    from kubevend.cli.documents import read_all
    from kubevend.cli.output import show_warnings
    from kubevend.client import Client

    resources = list(read_all(file, getattr(kind.types(), kind.noun.capitalize())))
    with Client(settings) as client:
        for resource in resources:
            resource.name = kind.full(resource.name)
            reply = kind.call(client, request(resource))
            show_warnings(getattr(reply, "warnings", ()))
            click.echo(f"{resource.name} {done}")


role = _group(ROLE)
config = _group(CONFIG)


@config.command("check")
@click.argument("name", default="default")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml", "rbac"]), default="table")
@connection_options
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> int:
    """The same as `kubevend check`."""
    from kubevend.cli.check import check as command

    found: int = ctx.invoke(command, **given)
    return found
