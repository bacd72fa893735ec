"""The command's root: its sub-commands by name, each loaded when it is called or asked for its help."""

from __future__ import annotations

from importlib import import_module

import click

from kubevend import __version__
from kubevend.cli.exits import TOLD

_HOMES: dict[str, tuple[str, str]] = {
    "agent": ("kubevend.cli.agent", "Keep files with tokens up to date, in pods and CI jobs."),
    "check": (
        "kubevend.cli.check",
        "Look whether kubevend can reach a cluster, with the rights that it needs.",
    ),
    "completion": ("kubevend.cli.completion", "Print what makes a shell complete this command."),
    "config": ("kubevend.cli.resources", "Clusters: get, list, create, update, delete, check."),
    "context": ("kubevend.cli.contexts", "Which kubevend server to talk to, by a name."),
    "credential": ("kubevend.cli.credential", "Be kubectl's credential plugin."),
    "issue": ("kubevend.cli.issue", "Have a token issued through a role."),
    "kubeconfig": ("kubevend.cli.kubeconfig", "Write a kubeconfig whose credential comes from a role."),
    "lease": ("kubevend.cli.leases", "Leases: get, list, watch, revoke."),
    "role": ("kubevend.cli.resources", "Roles: get, list, create, update, delete."),
    "whoami": ("kubevend.cli.whoami", "Show who kubevend takes you for."),
}
"""Of each sub-command the module that has it, under its own name, and what the list of commands says of it."""


class LazyGroup(click.Group):
    """A group whose commands are loaded one by one. The help of the group itself loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        del ctx
        return sorted(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        del ctx
        if cmd_name not in _HOMES:
            return None
        command = getattr(import_module(_HOMES[cmd_name][0]), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them by what is said of them here."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in sorted(_HOMES.items())])


EXAMPLES = """\b
Examples:
  kubevend issue quickstart -o token               a token, to be put into a header
  kubevend kubeconfig quickstart --output kc.yaml  what kubectl needs to get tokens by itself
  kubevend role list                               what there is
  kubevend lease revoke --role quickstart          ends all of a role's leases
"""


@click.group(cls=LazyGroup, epilog=f"{EXAMPLES}\n{TOLD}", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def kubevend() -> None:
    """Short-lived Kubernetes ServiceAccount tokens.

    Where kubevend is, and as whom to call it, say KUBEVEND_ADDRESS, KUBEVEND_CA_FILE and KUBEVEND_TOKEN_FILE (or
    KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE), options of the same names, or a context.
    """
