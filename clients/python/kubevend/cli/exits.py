"""How the command ends: an exit code for each kind of failure, and what it says on stderr."""

from __future__ import annotations

import sys
from typing import Any

import click

from kubevend.errors import KubevendError

FAILED = 1
USAGE = 2
DENIED = 3
NOT_FOUND = 4
UNAVAILABLE = 5
CONFLICT = 6

CODES = {
    "PERMISSION_DENIED": DENIED,
    "UNAUTHENTICATED": DENIED,
    "NOT_FOUND": NOT_FOUND,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
    "RESOURCE_EXHAUSTED": UNAVAILABLE,
    "ABORTED": CONFLICT,
    "ALREADY_EXISTS": CONFLICT,
    "INVALID_ARGUMENT": USAGE,
}
"""By the status of gRPC; what is not here is FAILED."""

TOLD = """\b
Exit codes:
  0  it was done
  1  it failed, or `check` found something that is missing
  2  it was asked wrongly: an option, a file, a field
  3  it is not allowed, or kubevend does not know the caller
  4  there is no such thing, or none that the caller may see
  5  not just now: kubevend cannot be reached or is busy; try again
  6  somebody else was faster (etag), or the name is taken
"""


def explain(error: KubevendError) -> str:
    """What to say of an error: what happened and what to do, the fields at fault, and where its event is."""
    lines = [f"Error: {error.message or error.code}"]
    lines += [f"  {violation.field}: {violation.description}" for violation in error.violations]
    if error.reason:
        lines.append(f"  reason: {error.reason} ({error.code})")
    if error.retry_after:
        lines.append(f"  try again in {error.retry_after.total_seconds():g} s")
    if error.request_id:
        lines.append(f"  request id: {error.request_id}")
    return "\n".join(lines)


def run(command: click.Group, arguments: list[str] | None = None, **settings: Any) -> int:
    """Run a click command, and tell its end by an exit code."""
    try:
        result = command.main(arguments, standalone_mode=False, **settings)
    except KubevendError as error:
        click.echo(explain(error), err=True)
        return CODES.get(error.code, USAGE if error.reason == "SETTINGS_INVALID" else FAILED)
    except click.ClickException as fault:
        fault.show()
        return fault.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
        return FAILED
    except BrokenPipeError:
        # Whoever read it has seen enough.
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0
