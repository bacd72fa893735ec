"""`kubevend completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  source <(kubevend completion bash)        in ~/.bashrc, to have it in every shell
  source <(kubevend completion zsh)         in ~/.zshrc
  kubevend completion fish > ~/.config/fish/completions/kubevend.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete this command, the names of roles, configs and contexts too."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click does not know {shell}")
    click.echo(kind(ctx.find_root().command, {}, "kubevend", "_KUBEVEND_COMPLETE").source())
