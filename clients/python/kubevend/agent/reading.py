"""The agent's config, read from YAML; all that is wrong with it is told at once."""

from __future__ import annotations

import grp
import pwd
import re
import signal
from datetime import timedelta
from pathlib import Path

import yaml

from kubevend.agent.config import (
    Cluster,
    Config,
    Filled,
    Kubeconfig,
    Output,
    Request,
    RunCommand,
    SendSignal,
    TokenFile,
    files_of,
)
from kubevend.agent.fields import Section, load
from kubevend.agent.templates import Template, TemplateFaultError
from kubevend.cli.names import ROLE
from kubevend.connection import VARIABLES

HEALTH_ADDRESS = "127.0.0.1:9880"
_COMMAND_TIMEOUT = timedelta(seconds=30)
_MODE = re.compile(r"0?[0-7]{3}")


class ConfigFaultError(Exception):
    """The file cannot be used; the message has all that is wrong with it, a line each."""


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
    if found.server and not re.match(r"https://.", found.server):
        section.fault("server", f"is {found.server!r}, and must be an https URL, as https://10.0.0.1:6443")
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
