"""The agent's config and its templates."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from signal import SIGHUP, SIGUSR1
from typing import Any

import pytest
import yaml

from kubevend.agent import metrics
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
)
from kubevend.agent.reading import ConfigFaultError, read
from kubevend.agent.templates import VALUES, Template, TemplateFaultError

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "docs" / "agent.md").read_text()

TOKEN = {"role": "ci", "token": {"file": "/run/token"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the config is."""
    return tmp_path / "agent.yaml"


def read_text(file: Path, text: str, *, has_child: bool = True) -> Config:
    """Read a config's text."""
    file.write_text(text)
    return read(file, has_child=has_child)


def outputs(file: Path, *given: dict[str, Any]) -> tuple[Output, ...]:
    """What some outputs are read as."""
    return read_text(file, yaml.safe_dump({"outputs": given})).outputs


def faults(file: Path, text: str, *, has_child: bool = False) -> list[str]:
    """What is wrong with a text, without the file's name."""
    with pytest.raises(ConfigFaultError) as told:
        read_text(file, text, has_child=has_child)
    return [line.removeprefix(f"{file}: ") for line in str(told.value).splitlines()]


def test_everything_is_read(file: Path) -> None:
    """Every field of the file comes to what it says."""
    found = read_text(
        file,
        """
connection: {address: "kubevend:7443", ca_file: ca.crt, context: prod}
health:
revoke_on_exit: true
outputs:
- name: all
  role: roles/ci
  namespace: apps
  service_account_name: deployer
  ttl: 1h
  min_ttl: 10m
  audiences: [a, b]
  kubeconfig: {file: /run/kc, name: here, namespace: shop, embed: true}
  cluster: {server: "https://10.0.0.1:6443", certificate_authority: /etc/ca}
  mode: 0640
  owner: root
  group: 65532
  on_expiry: remove
  on_revoked: keep
  on_change: {command: [reload, now], timeout: 5s}
""",
    )
    assert found == Config(
        connection={"address": "kubevend:7443", "ca_file": "ca.crt"},
        context="prod",
        health="127.0.0.1:9880",
        revoke_on_exit=True,
        outputs=(
            Output(
                name="all",
                request=Request("roles/ci", "apps", "deployer", timedelta(hours=1), timedelta(minutes=10), ("a", "b")),
                content=Kubeconfig(Path("/run/kc"), "here", "shop", embed=True),
                cluster=Cluster("https://10.0.0.1:6443", Path("/etc/ca")),
                mode=0o640,
                owner=0,
                group=65532,
                on_change=RunCommand(("reload", "now"), timedelta(seconds=5)),
                remove_expired=True,
                remove_revoked=False,
            ),
        ),
    )


def test_what_is_left_out_has_a_default(file: Path) -> None:
    """A role and a file are enough, and make a file that is its owner's alone."""
    (found,) = outputs(file, TOKEN)
    assert found == Output("/run/token", Request("roles/ci"), TokenFile(Path("/run/token")))
    assert (found.mode, found.remove_expired, found.remove_revoked) == (0o600, False, True)


def test_changes_by_signal(file: Path) -> None:
    """A signal goes to the process of a file or to the child, with or without SIG before its name."""
    by_file, by_child = outputs(
        file,
        {**TOKEN, "on_change": {"signal": "SIGUSR1", "pid_file": "/run/app.pid"}},
        {"role": "ci", "token": {"file": "/run/other"}, "on_change": {"signal": "HUP", "process": "child"}},
    )
    assert by_file.on_change == SendSignal(SIGUSR1, Path("/run/app.pid"))
    assert by_child.on_change == SendSignal(SIGHUP, None)


def test_a_template_is_read_from_its_file(file: Path, tmp_path: Path) -> None:
    """A template is text in the config, or a file's; whether it needs the cluster is known."""
    (tmp_path / "app.tmpl").write_text("${cluster_server} ${token}")
    by_text, by_file = outputs(
        file,
        {"role": "ci", "template": {"text": "$token", "file": "/run/a"}},
        {"role": "ci", "template": {"source": str(tmp_path / "app.tmpl"), "file": "/run/b"}},
    )
    assert isinstance(by_file.content, Filled)
    assert by_file.content.template.names == {"cluster_server", "token"}
    assert (by_text.needs_cluster, by_file.needs_cluster) == (False, True)


OUTPUT = "outputs: [{role: ci, token: {file: /run/token}, %s}]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "outputs: must be a list of one or more."),
        ("outputs: []", "outputs: must be a list of one or more."),
        ("- x", "the file: must be a mapping of names to values."),
        ("outputs: [x]", "outputs[0]: must be a mapping of names to values."),
        (OUTPUT % "tll: 1h", "outputs[0].tll: is not known: did you mean ttl?"),
        (OUTPUT % "ttl: soon", "outputs[0].ttl: 'soon' is no lifetime: write 600s, 30m or 1h30m."),
        (OUTPUT % "mode: 8", "outputs[0].mode: is '8', and must be an octal mode of three digits, as 0640."),
        (OUTPUT % "mode: 4755", "outputs[0].mode: is '4755', and must be an octal mode of three digits, as 0640."),
        (OUTPUT % "owner: no.body", "outputs[0].owner: there is no user 'no.body' here; a number will do, too."),
        (OUTPUT % "on_expiry: delete", "outputs[0].on_expiry: is 'delete', and must be keep or remove"),
        (OUTPUT % "audiences: x", "outputs[0].audiences: must be a list of texts, as [one, two]."),
        (
            OUTPUT % "on_change: {command: make}",
            "outputs[0].on_change.command: must be a list of texts, as [one, two].",
        ),
        (OUTPUT % "on_change: {signal: HUB, pid_file: x}", "outputs[0].on_change.signal: there is no signal 'HUB'"),
        (
            OUTPUT % "on_change: {signal: HUP}",
            "outputs[0].on_change: must have one of pid_file, process, and has none.",
        ),
        (
            OUTPUT % "on_change: {signal: HUP, process: child}",
            "outputs[0].on_change.process: is the child, and there is",
        ),
        (OUTPUT % "cluster: {certificate_authority: x}", "outputs[0].cluster.certificate_authority: goes with server"),
        (OUTPUT % "cluster: {server: x}", "outputs[0].cluster.server: is 'x', and must be an https URL"),
        (OUTPUT % "cluster: {server: 'https://x', in_cluster: true}", "outputs[0].cluster: has server and in_cluster"),
        (OUTPUT % "cluster: {in_cluster: yes}", "outputs[0].cluster.in_cluster: is 'yes', and must be true or false"),
        ("outputs: [{token: {file: /x}}]", "outputs[0].role: is missing."),
        ("outputs: [{role: ci, token: {}}]", "outputs[0].token.file: is missing."),
        (
            "outputs: [{role: ci, template: {text: $tokn, file: /x}}]",
            "outputs[0].template.text: there is no value 'tokn'",
        ),
        (
            "outputs: [{role: ci, template: {source: /none, file: /x}}]",
            "outputs[0].template.source: /none cannot be read",
        ),
        ("health: {address: here}\n" + OUTPUT % "", "health.address: is 'here', and must be host:port"),
        ("connection: {adress: x}\n" + OUTPUT % "", "connection.adress: is not known: did you mean address?"),
    ],
)
def test_a_fault_is_told_by_its_path(file: Path, text: str, said: str) -> None:
    """What is wrong is said with where it is, and what is right."""
    (fault,) = faults(file, text)
    assert fault.startswith(said)


def test_all_faults_are_told_at_once(file: Path) -> None:
    """Who mends a file reads all that is wrong with it, such as two outputs for one file, or a name twice."""
    twice = "outputs: [{role: ci, kubeconfig: {file: /y}}, {role: ci, token: {file: /y.token}}]"
    assert faults(file, twice) == ["outputs: /y.token is there twice."]
    assert len(faults(file, "helth: {}\noutputs: [{rle: ci, tokn: {}}]")) == 5
    (told,) = {fault.partition("\n")[0] for fault in faults(file, "outputs: []\noutputs: []")[:1]}
    assert told == "cannot be read: 'outputs' is there twice"
    with pytest.raises(ConfigFaultError, match="cannot be read"):
        read(file.with_name("none"), has_child=False)


def test_templates() -> None:
    """A template has values in place of names, and a sign for two; what it cannot have is told when it is made."""
    values = {name: name.upper() for name in VALUES}
    assert Template("a=${token}b $jti $$5\n").fill(values) == "a=TOKENb JTI $5\n"
    for text, said in (
        ("one\n${token} $ 5", "line 2 has a \\$"),
        ("${tokn}", "there is no value 'tokn'; there are token, expiration"),
        ("${token.__class__}", "line 1 has a \\$"),
    ):
        with pytest.raises(TemplateFaultError, match=said):
            Template(text)


def test_the_page_has_all_that_there_is() -> None:
    """docs/agent.md has every event of the log, every metric, every value of templates, and every field."""
    code = "".join(file.read_text() for file in (ROOT / "clients/python/kubevend/agent").glob("*.py"))
    logged = set(re.findall(r'log\.(?:info|warning|error)\(\s*"(\w+)"', code))
    rows = re.findall(r"^\| (`\w+`.*?) \|", PAGE.partition("## The log")[2], re.MULTILINE)
    assert {event for row in rows for event in re.findall(r"`(\w+)`", row)} - {"event"} == logged

    table = PAGE.partition("`kubevend_agent_…`")[2].partition("## The log")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert told == set(re.findall(r"# TYPE kubevend_agent_(\w+)", metrics.text([])))

    section = PAGE.partition("## The config")[2].partition("## What happens when")[0]
    assert [value for value in VALUES if f"`{value}`" not in section] == []
    source = (ROOT / "clients/python/kubevend/agent/reading.py").read_text()
    fields = set(re.findall(r'\.(?:text|file|choice|flag|lifetime|texts|sections?|has)\("(\w+)"', source))
    assert [name for name in fields if not re.search(rf"\b{name}\b", section)] == []
