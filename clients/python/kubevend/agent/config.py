"""What the agent is to keep, from a YAML file. docs/agent.md has all of it."""

from __future__ import annotations

import grp
import pwd
import re
import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from kubevend.agent.fields import Section, load
from kubevend.agent.templates import CLUSTER_VALUES, Template, TemplateFaultError
from kubevend.cli.names import ROLE
from kubevend.connection import VARIABLES

HEALTH_ADDRESS = "127.0.0.1:9880"
_COMMAND_TIMEOUT = timedelta(seconds=30)
_MODE = re.compile(r"0?[0-7]{3}")


class ConfigFaultError(Exception):
    """The file cannot be used; the message has all that is wrong with it, a line each."""


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


def read(path: Path, *, has_child: bool) -> Config:
    """Read a file.

    Args:
        path: the file.
        has_child: whether the agent is given a command to start.

    Raises:
        ConfigFaultError: it cannot be used.
    """
    try:
        content = load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigFaultError(f"{path}: cannot be read: {error}") from error
    faults: list[str] = []
    config = _config(Section(content, "", faults), has_child)
    if faults:
        raise ConfigFaultError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def _config(top: Section, has_child: bool) -> Config:
    connection = top.section("connection")
    given = {name: text for name in VARIABLES if (text := connection.text(name))}
    context = connection.text("context")
    connection.end()
    outputs = tuple(_output(section, has_child) for section in top.sections("outputs"))
    found = Config(given, context, outputs, _health(top), top.flag("revoke_on_exit"))
    top.end()
    _check_apart(outputs, top)
    return found


def _health(top: Section) -> str:
    if not top.has("health"):
        return ""
    health = top.section("health")
    address = health.text("address", HEALTH_ADDRESS)
    if not re.fullmatch(r".+:\d{1,5}", address):
        health.fault("address", f"is {address!r}, and must be host:port, as {HEALTH_ADDRESS}")
    health.end()
    return address


def _check_apart(outputs: tuple[Output, ...], top: Section) -> None:
    """Tell of outputs that share a name or a file."""
    files = [str(file) for output in outputs for file in files_of(output) if file != Path()]
    for what in ([output.name for output in outputs if output.content.file != Path()], files):
        for each in sorted({each for each in what if what.count(each) > 1}):
            top.fault("outputs", f"{each} is there twice")


def files_of(output: Output) -> list[Path]:
    """The files of an output, those first that others refer to."""
    content = output.content
    if isinstance(content, Kubeconfig) and not content.embed:
        return [token_file_of(content), content.file]
    return [content.file]


def token_file_of(kubeconfig: Kubeconfig) -> Path:
    """The file beside a kubeconfig that has its token."""
    return kubeconfig.file.with_name(f"{kubeconfig.file.name}.token")


def _output(section: Section, has_child: bool) -> Output:
    request = Request(
        ROLE.full(section.text("role", required=True)),
        section.text("namespace"),
        section.text("service_account_name"),
        section.lifetime("ttl"),
        section.lifetime("min_ttl"),
        section.texts("audiences"),
    )
    content = _content(section, request)
    found = Output(
        section.text("name", str(content.file)),
        request,
        content,
        _cluster(section.section("cluster")),
        _mode(section),
        _number(section, "owner"),
        _number(section, "group"),
        _on_change(section.section("on_change"), has_child) if section.has("on_change") else None,
        section.choice("on_expiry", ("keep", "remove"), "keep") == "remove",
        section.choice("on_revoked", ("remove", "keep"), "remove") == "remove",
    )
    section.end()
    return found


def _content(section: Section, request: Request) -> TokenFile | Kubeconfig | Filled:
    kind = section.one_of("token", "kubeconfig", "template")
    if not kind:
        return TokenFile(Path())
    inner = section.section(kind)
    file = inner.file("file", required=True) or Path()
    content: TokenFile | Kubeconfig | Filled = TokenFile(file)
    if kind == "kubeconfig":
        name = inner.text("name", f"kubevend-{ROLE.short(request.role)}")
        content = Kubeconfig(file, name, inner.text("namespace"), inner.flag("embed"))
    elif kind == "template":
        content = Filled(file, _template(inner))
    inner.end()
    return content


def _template(section: Section) -> Template:
    kind = section.one_of("source", "text")
    if not kind:
        return Template("")
    given = section.text(kind, required=True)
    try:
        return Template(given if kind == "text" else Path(given).read_text())
    except (OSError, UnicodeDecodeError) as error:
        section.fault(kind, f"{given} cannot be read: {error}")
    except TemplateFaultError as error:
        section.fault(kind, str(error))
    return Template("")


def _cluster(section: Section) -> Cluster:
    authority = section.file("certificate_authority")
    found = Cluster(section.text("server"), authority, section.flag("in_cluster"))
    if found.server and found.in_cluster:
        section.fault("", "has server and in_cluster, which is the pod's own: one of them says where the cluster is")
    if authority and not (found.server or found.in_cluster):
        section.fault("certificate_authority", "goes with server or in_cluster")
    if found.server and not re.match(r"https?://.", found.server):
        section.fault("server", f"is {found.server!r}, and must be a URL, as https://10.0.0.1:6443")
    section.end()
    return found


def _mode(section: Section) -> int:
    text = section.text("mode", "0600")
    if not _MODE.fullmatch(text):
        section.fault("mode", f"is {text!r}, and must be an octal mode of three digits, as 0640")
        return 0o600
    return int(text, 8)


def _number(section: Section, kind: str) -> int | None:
    """The number of a user or group that is given by name or number."""
    text = section.text(kind)
    if not text or text.isdecimal():
        return int(text) if text else None
    try:
        return pwd.getpwnam(text).pw_uid if kind == "owner" else grp.getgrnam(text).gr_gid
    except KeyError:
        section.fault(
            kind, f"there is no {'user' if kind == 'owner' else 'group'} {text!r} here; a number will do, too"
        )
        return None


def _on_change(section: Section, has_child: bool) -> RunCommand | SendSignal:
    match section.one_of("command", "signal"):
        case "command":
            found: RunCommand | SendSignal = _command(section)
        case "signal":
            found = _signal(section, has_child)
        case _:
            return RunCommand((), _COMMAND_TIMEOUT)
    section.end()
    return found


def _command(section: Section) -> RunCommand:
    return RunCommand(section.texts("command", required=True), section.lifetime("timeout") or _COMMAND_TIMEOUT)


def _signal(section: Section, has_child: bool) -> SendSignal:
    name = section.text("signal", required=True).removeprefix("SIG")
    known = [each.name.removeprefix("SIG") for each in signal.Signals]
    number = signal.Signals[f"SIG{name}"] if name in known else signal.SIGHUP
    if name not in known:
        section.fault("signal", f"there is no signal {name!r}; HUP, USR1 or TERM are some")
    kind = section.one_of("pid_file", "process")
    if kind == "pid_file":
        return SendSignal(number, section.file("pid_file", required=True))
    section.choice("process", ("child",), "child")
    if kind and not has_child:
        section.fault("process", "is the child, and there is none: give its command after --")
    return SendSignal(number, None)
