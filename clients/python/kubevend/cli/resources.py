"""`kubevend role` and `kubevend config`: what there is, made and changed from files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

from kubevend.cli.check import check
from kubevend.cli.names import Names
from kubevend.cli.where import connection_options, take_settings

_SNAKE = re.compile(r"(?<=[a-z])([A-Z])")

Cell = Callable[[Any], str]


@dataclass(frozen=True)
class Kind:
    """A kind of resource.

    Attributes:
        noun: `role`.
        plural: `roles`, with which its names begin.
        columns: of its table.
        example: a file with one.
        change: a file that changes one field, and `changed`, that field.
        update_hint: what else to know before an update, and `delete_hint`, before a deletion.
    """

    noun: str
    plural: str
    columns: Sequence[tuple[str, Cell]]
    example: str
    change: str
    changed: str
    update_hint: str
    delete_hint: str

    @property
    def names(self) -> Names:
        """How they are called."""
        return Names(self.plural)

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
    "{name: ci, ttl: 1800s}",
    "ttl",
    "",
    "Leases that were granted through them live on.",
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
    "{name: prod, labels: {team: shop}}",
    "labels",
    "The credential stays where the file gives none.",
    "One that a role or a live lease uses is refused.",
)


def _few(items: Sequence[str], none: str) -> str:
    shown = ", ".join(items[:3])
    return f"{shown}, …" if len(items) > 3 else shown or none  # noqa: PLR2004 - as many as are shown


def _group(kind: Kind) -> click.Group:
    noun = kind.noun
    examples = (f"kubevend {noun} {rest}" for rest in ("list", "get ci -o yaml", "create -f ci.yaml"))
    epilog = "\n  ".join(["\b\nExamples:", *examples])
    said = "What may be issued, from which cluster" if noun == "role" else "Clusters, and how kubevend calls them"
    group = click.Group(noun, help=f"{said}. NAME is `ci` or `{kind.plural}/ci`.", epilog=epilog)
    for command in (_get(kind), _list(kind), _create(kind), _update(kind), _delete(kind)):
        group.add_command(command)
    return group


def _get(kind: Kind) -> click.Command:
    from kubevend.cli.formats import output_option

    @click.command(
        "get", help=f"Show a {kind.noun}.", epilog=f"\b\nExample:\n  kubevend {kind.noun} get ci -o yaml > ci.yaml\n"
    )
    @click.argument("name", shell_complete=kind.names.complete)
    @output_option
    @connection_options
    def get(name: str, *, form: str, **connection: Any) -> None:
        from kubevend.cli.output import show
        from kubevend.client import Client

        with Client(take_settings(connection)) as client:
            reply = kind.call(client, kind.message("Get", name=kind.names.full(name)))
        show(form, getattr(reply, kind.noun), kind.columns)

    return get


def _list(kind: Kind) -> click.Command:
    from kubevend.cli.formats import output_option

    @click.command(
        "list",
        help=f"List the {kind.plural} that you may get.",
        epilog=f"\b\nExamples:\n  kubevend {kind.noun} list\n  kubevend {kind.noun} list -o name\n",
    )
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
        help=f"Make {kind.plural} from a file, YAML or JSON, one or several documents; `-` is stdin.",
        epilog=f"\b\nExamples:\n  kubevend {kind.noun} create -f {kind.plural}.yaml --dry-run\n"
        f"  kubevend {kind.noun} create -f - <<EOF\n  {kind.example}\n  EOF\n",
    )
    @click.option("-f", "--file", type=click.File(), required=True, help="Where they are; `-` for stdin.")
    @click.option("--validate-only", "--dry-run", is_flag=True, help="Check everything, and make nothing.")
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
        help=f"Change {kind.plural} to what a file says of them. What it leaves out goes back to its default, unless "
        "--field says what alone is to be changed. With the `etag` that `get` shows, only if nobody else has changed "
        f"it since (exit code 6). {kind.update_hint}",
        epilog=f"\b\nExample:\n  kubevend {kind.noun} get ci -o yaml > ci.yaml; $EDITOR ci.yaml\n"
        f"  kubevend {kind.noun} update -f ci.yaml\n"
        f"  echo '{kind.change}' | kubevend {kind.noun} update -f - --field {kind.changed}\n",
    )
    @click.option("-f", "--file", type=click.File(), required=True, help="Where they are; `-` for stdin.")
    @click.option("--validate-only", "--dry-run", is_flag=True, help="Check everything, and change nothing.")
    @click.option("--field", "fields", multiple=True, help="Change this field alone; may be given again.")
    @connection_options
    def update(file: TextIO, *, validate_only: bool, fields: tuple[str, ...], **connection: Any) -> None:
        paths = [_SNAKE.sub(r"_\1", field).lower() for field in fields] or ["*"]

        def request(resource: Any) -> Any:
            fields = {kind.noun: resource, "update_mask": {"paths": paths}}
            return kind.message("Update", validate_only=validate_only, **fields)

        _write(kind, file, take_settings(connection), request, "would be updated" if validate_only else "updated")

    return update


def _delete(kind: Kind) -> click.Command:
    @click.command(
        "delete",
        help=f"Delete {kind.plural}. {kind.delete_hint}",
        epilog=f"\b\nExamples:\n  kubevend {kind.noun} delete ci\n  kubevend {kind.noun} delete ci --dry-run\n",
    )
    @click.argument("names", nargs=-1, required=True, shell_complete=kind.names.complete)
    @click.option("--validate-only", "--dry-run", is_flag=True, help="Check everything, and delete nothing.")
    @connection_options
    def delete(names: tuple[str, ...], *, validate_only: bool, **connection: Any) -> None:
        from kubevend.client import Client

        with Client(take_settings(connection)) as client:
            for name in names:
                kind.call(client, kind.message("Delete", name=kind.names.full(name), validate_only=validate_only))
                click.echo(f"{kind.names.full(name)} {'would be deleted' if validate_only else 'deleted'}")

    return delete


def _write(kind: Kind, file: TextIO, settings: Any, request: Callable[[Any], Any], done: str) -> None:
    from kubevend.cli.documents import read_all
    from kubevend.cli.output import show_warnings
    from kubevend.client import Client

    resources = list(read_all(file, getattr(kind.types(), kind.noun.capitalize())))
    with Client(settings) as client:
        for resource in resources:
            resource.name = kind.names.full(resource.name)
            reply = kind.call(client, request(resource))
            show_warnings(getattr(reply, "warnings", ()))
            click.echo(f"{resource.name} {done}")


role = _group(ROLE)
config = _group(CONFIG)
config.add_command(check)
