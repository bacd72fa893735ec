"""The kubevend-server command."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubevend_server import __version__
from kubevend_server.policy_commands.commands import policy
from kubevend_server.redaction import redact

if TYPE_CHECKING:
    from kubevend_server.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubevend-server")
def main() -> None:
    """Issue short-lived Kubernetes ServiceAccount tokens over gRPC."""


_SETTINGS = click.option(
    "--settings",
    "settings_file",
    required=True,
    type=click.Path(path_type=Path),
    help="The settings, a TOML file.",
)


def _load(settings_file: Path) -> Settings:
    """Read the settings, and log as they say: to stderr, so that what is printed on stdout stays what it is."""
    from kubevend_server import logs, settings

    found = settings.load(settings_file)
    logs.configure(found.log_level)
    return found


@main.command()
@_SETTINGS
def serve(settings_file: Path) -> None:
    """Run the server until SIGTERM. SIGHUP opens the audit file again, after it was rotated."""
    import uvloop

    from kubevend_server import app

    try:
        uvloop.run(app.serve(_load(settings_file)))
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(redact(f"The server cannot run: {error}")) from error


@main.command()
@_SETTINGS
@click.argument("configs", nargs=-1)
def check(settings_file: Path, configs: Sequence[str]) -> None:
    """Look at the cluster of each config, item by item, as CheckConfig does.

    CONFIGS are their names. Default: all. The exit code is 1 where something failed.
    """
    from kubevend_server import inspection

    try:
        inspected = inspection.inspect(_load(settings_file), configs)
    except (ValueError, OSError) as error:
        raise click.ClickException(redact(str(error))) from error
    for one in inspected:
        inspection.show(one)
    for one in inspected:
        if one.report.missing_rbac:
            command = f"kubevend-server rbac --settings {settings_file} {one.config.name}"
            click.echo(f"RBAC is missing for {one.config.name}. This prints what grants it: {command}")
    sys.exit(0 if all(one.report.passed for one in inspected) else 1)


@main.command()
@_SETTINGS
@click.option("--all", "everything", is_flag=True, help="Print all that the roles need, not only what is missing.")
@click.option("--role", "roles", multiple=True, help="Print what these roles alone need, all of it. Can be repeated.")
@click.option("--identity", default="", help="Whose rights to print, all of them, without asking the cluster.")
@click.argument("config", default="")
def rbac(settings_file: Path, *, everything: bool, roles: Sequence[str], identity: str, config: str) -> None:
    """Print the least RBAC that a config's roles need and kubevend has not, as YAML for kubectl apply -f -.

    With it come the admission policies that hold kubevend to it. CONFIG is the config's name. Default: that of the
    roles, or configs/default.
    """
    from kubevend_server import inspection
    from kubevend_server.names import DEFAULT_CONFIG

    try:
        found = _load(settings_file)
        if everything or roles or identity:
            text = inspection.all_manifests(found, config, identity, roles)
        else:
            text = inspection.missing_manifests(found, config or DEFAULT_CONFIG)
    except (ValueError, OSError) as error:
        raise click.ClickException(redact(str(error))) from error
    if roles:
        click.echo(
            "This is for these roles alone. Applied, it takes the place of what the config's other roles have.",
            err=True,
        )
    elif not text:
        click.echo("Nothing is missing.", err=True)
    click.echo(text, nl=False)


@main.group()
def audit() -> None:
    """Work with the audit log."""


@audit.command()
@_SETTINGS
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
def verify(settings_file: Path, files: Sequence[Path]) -> None:
    """Check that no line of the audit log was changed, left out, put in, or cut off the end.

    FILES are the log's files, the oldest first. Default: the one that the settings name.
    """
    from kubevend_server.audit.verify import verify as check
    from kubevend_server.encryption import read_one_key
    from kubevend_server.journal import read_head
    from kubevend_server.store.database import Database

    try:
        found = _load(settings_file)
        key = read_one_key(Path(found.audit.key_file), make=False)
        database = Database(found.store.url, make=False)
        # Before the lines are read: what is written meanwhile only adds to them.
        committed = database.read_now(lambda connection: read_head(connection, found.instance.replica))
        report = check(_lines(files or [Path(found.audit.file)]), key, committed)
    except (ValueError, OSError) as error:
        raise click.ClickException(redact(str(error))) from error
    click.echo(f"{report.lines} lines in place, from sequence {report.first} on; {report.torn} torn by a crash")
    if report.first > 1:
        click.echo(f"The lines before sequence {report.first} were not given, so nothing is said of them.")
    for fault in report.faults:
        click.echo(f"FAULT {fault}")
    click.echo("The audit log is not what was written." if report.faults else "The audit log is sound.")
    sys.exit(1 if report.faults else 0)


main.add_command(policy)


def _lines(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as lines:
            yield from lines


if __name__ == "__main__":
    main()
