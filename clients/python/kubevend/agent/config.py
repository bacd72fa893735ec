"""What the agent is to keep. docs/agent.md has all of it; `reading` reads it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kubevend.agent.templates import CLUSTER_VALUES, Template


@dataclass(frozen=True, slots=True)
class Request:
    """What a token is to be. Outputs that ask for the same share it."""

    role: str
    namespace: str = ""
    service_account_name: str = ""
    ttl: timedelta | None = None
    min_ttl: timedelta | None = None
    audiences: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """The arguments of `TokenSource` and `Client.issue`."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a cluster is: what was given, or nothing, and then the role's config says."""

    server: str = ""
    certificate_authority: Path | None = None
    in_cluster: bool = False


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file with a token and nothing else."""

    file: Path


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig, which has the token in a file beside it, or in itself.

    Attributes:
        file: its file.
        name: what cluster, user and context are called in it.
        namespace: the context's; empty for the token's.
        embed: whether the token is in itself.
    """

    file: Path
    name: str
    namespace: str = ""
    embed: bool = False


@dataclass(frozen=True, slots=True)
class Filled:
    """A file made from a template."""

    file: Path
    template: Template


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Run a command when files have changed."""

    command: tuple[str, ...]
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send a signal when files have changed: to the process that a file names, or to the child."""

    signal: signal.Signals
    pid_file: Path | None


@dataclass(frozen=True, slots=True)
class Output:
    """What is kept.

    Attributes:
        name: what it is called in the log and the metrics.
        request: what its token is to be.
        content: what goes into the files.
        cluster: where the cluster is.
        mode: of the files.
        owner: of the files, a number; None for the agent's own.
        group: of the files, a number; None for what the folder makes it.
        on_change: what is done when they have changed.
        remove_expired: whether they are removed when the token has run out.
        remove_revoked: whether they are removed when the lease was revoked, and there is no other token.
    """

    name: str
    request: Request
    content: TokenFile | Kubeconfig | Filled
    cluster: Cluster = Cluster()
    mode: int = 0o600
    owner: int | None = None
    group: int | None = None
    on_change: RunCommand | SendSignal | None = None
    remove_expired: bool = False
    remove_revoked: bool = True

    @property
    def needs_cluster(self) -> bool:
        """Whether one has to know where the cluster is."""
        if isinstance(self.content, Filled):
            return bool(self.content.template.names & CLUSTER_VALUES)
        return isinstance(self.content, Kubeconfig)


@dataclass(frozen=True, slots=True)
class Config:
    """What the agent is to do.

    Attributes:
        connection: where kubevend is, by the names of `Settings`.
        context: a context that says so; empty for none.
        outputs: what is kept.
        health: the address of the health endpoint; empty for none.
        revoke_on_exit: whether the agent ends its leases when it ends.
    """

    connection: dict[str, str]
    context: str
    outputs: tuple[Output, ...]
    health: str = ""
    revoke_on_exit: bool = False


def files_of(output: Output) -> list[Path]:
    """The files of an output, those first that others refer to."""
    content = output.content
    if isinstance(content, Kubeconfig) and not content.embed:
        return [token_file_of(content), content.file]
    return [content.file]


def token_file_of(kubeconfig: Kubeconfig) -> Path:
    """The file beside a kubeconfig that has its token."""
    return kubeconfig.file.with_name(f"{kubeconfig.file.name}.token")
