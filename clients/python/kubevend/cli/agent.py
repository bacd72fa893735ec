"""`kubevend agent`."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubevend.cli.durations import LIFETIME
from kubevend.cli.exits import USAGE

if TYPE_CHECKING:
    from kubevend.agent.config import Config
    from kubevend.connection import Settings


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog="""\b
Examples:
  kubevend agent --config agent.yaml
  kubevend agent --config agent.yaml --once        for an init container, or a step of a CI job
  kubevend agent --config agent.yaml -- ./deploy   files first, then the command, then its exit code
  kubevend agent --config agent.yaml --check       what is wrong with the file

\b
agent.yaml:
  outputs:
  - role: ci
    kubeconfig: {file: /run/kubevend/kubeconfig}
  - role: ci
    ttl: 30m
    token: {file: /run/kubevend/token}
    mode: 0640
    on_change: {signal: HUP, pid_file: /run/app.pid}
""",
)
@click.option("--config", "file", type=click.Path(path_type=Path), required=True, help="What to keep, YAML.")
@click.option("--once", is_flag=True, help="Write every file once, or none, and end.")
@click.option("--check", is_flag=True, help="Say what is wrong with the config, and do nothing.")
@click.option(
    "--timeout",
    type=LIFETIME,
    default="60s",
    show_default=True,
    help="How long to try, with --once or a command, before the files are there.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def agent(file: Path, *, once: bool, check: bool, timeout: timedelta, command: tuple[str, ...]) -> int:
    """Keep files with tokens, kubeconfigs or templates up to date, for programs that know nothing of kubevend.

    A COMMAND after -- is started once all files are there; it gets the agent's signals, and the agent ends with it,
    with its exit code. The log is on stderr, a line of JSON for each event.
    """
    from kubevend.agent.reading import ConfigFaultError, read

    if once and command:
        raise click.UsageError("--once ends before a command could use the files: leave it out, or the command.")
    try:
        config = read(file, has_child=bool(command))
        settings = _settings(config)
    except ConfigFaultError as error:
        click.echo(f"Error: {error}", err=True)
        return USAGE
    if check:
        click.echo(f"{file} is good: {len(config.outputs)} outputs, by {settings.address}")
        return 0
    return _run(config, settings, command, timeout.total_seconds(), once=once)


def _settings(config: Config) -> Settings:
    from kubevend.cli.where import settle

    return settle(config.connection, config.context or None, os.environ)


def _run(config: Config, settings: Settings, command: tuple[str, ...], seconds: float, *, once: bool) -> int:
    from kubevend.agent.log import Log
    from kubevend.agent.once import Once
    from kubevend.agent.placing import PlacingError
    from kubevend.agent.running import Agent

    log = Log()
    log.take_over()
    try:
        return (
            Once(config, settings, seconds, log).run() if once else Agent(config, settings, command, seconds, log).run()
        )
    except PlacingError as error:
        raise click.ClickException(str(error)) from error
