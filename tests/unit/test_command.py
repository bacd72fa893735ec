"""The `kubevend` command, as far as it needs no server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from kubevend.cli import kubeconfig_file
from kubevend.cli.context_file import read
from kubevend.cli.documents import FileFaultError, read_all
from kubevend.cli.durations import LIFETIME
from kubevend.cli.exits import CODES, TOLD, explain
from kubevend.cli.names import LEASE, ROLE
from kubevend.cli.root import kubevend
from kubevend.cli.where import settle
from kubevend.errors import ClientError, KubevendError, Violation
from kubevend.v1 import config_service_pb2, role_service_pb2

DOCS = Path(__file__).parents[2] / "docs"


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    """All commands there are, as they are typed."""
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
    return found


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(kubevend, arguments)


@pytest.mark.parametrize("path", commands(kubevend), ids=" ".join)
def test_each_command_teaches_with_examples(path: tuple[str, ...]) -> None:
    """The help of every command says what it is for, and shows it."""
    told = invoke(*path, "--help").output
    examples = told.partition("\n  Example")[2]
    assert "  kubevend " in examples
    assert f" {path[-1]}" in examples


def test_the_help_of_all_loads_none() -> None:
    """`kubevend --help` lists commands without loading them, nor gRPC."""
    script = "import sys; sys.argv = ['kubevend', '--help']; from kubevend.cli import main\ntry: main()\n"
    script += "finally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "lease" in done.stdout
    loaded = done.stderr.split()
    assert not {"grpc", "google.protobuf", "yaml", "kubevend.cli.leases", "kubevend.cli.credential"} & set(loaded)


def test_exit_codes_are_told() -> None:
    """The help and the page have the same codes as the code."""
    page = (DOCS / "cli.md").read_text()
    for code in {0, 1, *CODES.values()}:
        assert f"\n  {code}  " in TOLD
        assert f"| {code} | " in page
    for status, code in CODES.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {code} | ")]
        assert status in line
    assert "Exit codes:" in invoke("--help").output


def test_an_error_tells_all_that_is_known() -> None:
    """Message, fields, reason, when to try again, and where the audit log has it."""
    error = KubevendError(
        "No.",
        code="INVALID_ARGUMENT",
        reason="FIELD_INVALID",
        violations=[Violation("ttl", "must be seconds")],
        retry_after=timedelta(seconds=1.5),
        request_id="r-1",
    )
    assert explain(error).splitlines() == [
        "Error: No.",
        "  ttl: must be seconds",
        "  reason: FIELD_INVALID (INVALID_ARGUMENT)",
        "  try again in 1.5 s",
        "  request id: r-1",
    ]


def test_names_are_short_or_full() -> None:
    """A name is taken with or without what it begins with."""
    assert [ROLE.full("ci"), ROLE.full("roles/ci"), ROLE.short("roles/ci"), LEASE.full("x")] == [
        "roles/ci",
        "roles/ci",
        "ci",
        "leases/x",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("1h1m1s", 3661)]
)
def test_lifetimes_are_read(text: str, seconds: int) -> None:
    """Hours, minutes and seconds, in this order."""
    assert LIFETIME.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "30", "1.5h", "-1s", "30s1h", "1 h", "1d"])
def test_what_is_no_lifetime_is_refused(text: str) -> None:
    """Anything else is a fault of usage, and the message shows how to write it."""
    with pytest.raises(click.BadParameter, match="30m or 1h30m"):
        LIFETIME.convert(text, None, None)


def roles(text: str) -> list[role_service_pb2.Role]:
    """The roles in a file."""
    return list(read_all(io.StringIO(text), role_service_pb2.Role))


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A StringIO has no name of its own."""
    monkeypatch.setattr(io, "StringIO", type("Named", (io.StringIO,), {"name": "roles.yaml"}))


def test_a_file_has_several_documents() -> None:
    """YAML documents, and JSON, with the names of fields in both forms."""
    found = roles('name: a\nttl: 900s\n---\n---\n{"name": "b", "allowedNamespaces": ["x"], "max_ttl": "3600s"}')
    assert [role.name for role in found] == ["a", "b"]
    assert (found[0].ttl.seconds, list(found[1].allowed_namespaces), found[1].max_ttl.seconds) == (900, ["x"], 3600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: a, tll: 900s}", "did you mean ttl?"),
        ("{name: a, allowedNamespace: [x]}", "did you mean allowedNamespaces?"),
        ("{name: a, kubernetesRole: {nam: view}}", "no field kubernetesRole.nam; did you mean name?"),
        ("{name: a, zzz: 1}", "there are name, config"),
        ("{name: a, ttl: soon}", "ttl has a value that it cannot have"),
        ("{name: a}\n---\n{name: b, x: 1}", "document 2: Role has no field x"),
        ("{ttl: 900s}", "with a name"),
        ("[1]", "with a name"),
        ("", "nothing in it"),
        ("{name: [", "line 1, column 9"),
    ],
)
def test_what_a_file_may_not_have_is_told(text: str, said: str) -> None:
    """The error names the file, the document, the field, and what may be meant."""
    with pytest.raises(FileFaultError) as refused:
        roles(text)
    assert said in refused.value.message
    assert refused.value.message.startswith("roles.yaml")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "{name: a, serviceAccountJwt: [hidden]}",
        "{name: a, serviceAccountJwt: {hidden: 1}}",
        "{name: a, clientCertificate: {privateKey: [hidden], certificate: 1}}",
        "{name: a, serviceAccountJwt: hidden: 1}",
        "serviceAccountJwt: 'hidden",
        "{name: a, serviceAccountJwt: hidden, tokenFile: hidden}",
    ],
)
def test_no_secret_of_a_file_is_in_an_error(text: str) -> None:
    """What is wrong with a config is told without what is in it."""
    with pytest.raises(FileFaultError) as refused:
        list(read_all(io.StringIO(text), config_service_pb2.Config))
    assert "hidden" not in refused.value.message


def contexts(tmp_path: Path, content: Any) -> dict[str, str]:
    """An environment with contexts."""
    file = tmp_path / "config.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return {"KUBEVEND_CONFIG": str(file)}


PROD = {"address": "prod:1", "ca_file": "/ca", "token_file": "/token"}


def test_options_go_before_contexts_and_the_environment(tmp_path: Path) -> None:
    """Options, then a named context or the environment, then the current context; a credential is taken as a whole."""
    none = contexts(tmp_path, {"current": "prod", "contexts": {"prod": PROD}})
    given = {**none, "KUBEVEND_ADDRESS": "here:1", "KUBEVEND_TOKEN_FILE": "/own"}
    assert settle({}, None, none).address == "prod:1"
    assert settle({}, None, given).address == "here:1"
    assert settle({}, None, given).ca_file is None
    assert settle({}, "prod", given).token_file == Path("/token")
    assert settle({"address": "other:1"}, "prod", given).address == "other:1"
    certificate = {"client_cert_file": Path("/c"), "client_key_file": Path("/k")}
    assert settle(certificate, "prod", given).token_file is None
    with pytest.raises(ClientError, match="there are: prod"):
        settle({}, "pord", given)
    with pytest.raises(ClientError, match=r"\.dev/env"):
        settle({}, None, {"KUBEVEND_CONFIG": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("contexts: {prod: {adress: x}}", "did you mean address"),
        ("contexts: {prod: {token: x}}", "token_file"),
        ("contexts: [", "cannot be used"),
        ("[]", ""),
        ("- 1", "cannot be used"),
    ],
)
def test_a_file_of_contexts_that_is_none_is_told(tmp_path: Path, content: str, said: str) -> None:
    """What it may not have is named, with the nearest that it may."""
    environment = contexts(tmp_path, content)
    if not said:
        assert read(environment).contexts == {}
        return
    with pytest.raises(ClientError, match=said):
        read(environment)


def test_contexts_are_set_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one becomes the current one, single settings are changed, and a credential is replaced as a whole."""
    file = tmp_path / "folder" / "config.yaml"
    monkeypatch.setenv("KUBEVEND_CONFIG", str(file))
    assert invoke("context", "set", "a", "--address", "a:1", "--token-file", "/t").exit_code == 0
    assert invoke("context", "set", "b", "--address", "b:1").exit_code == 0
    assert invoke("context", "set", "a", "--client-cert-file", "/c", "--client-key-file", "/k").exit_code == 0
    found = read(os.environ)
    assert found.current == "a"
    assert found.contexts["a"] == {"address": "a:1", "client_cert_file": "/c", "client_key_file": "/k"}
    assert isinstance(invoke("context", "set", "c", "--ca-file", "/x").exception, ClientError)
    assert invoke("context", "delete", "a").exit_code == 0
    assert (read(os.environ).current, [*read(os.environ).contexts]) == ("", ["b"])


ENTRY = kubeconfig_file.Entry("new", {"server": "https://new"}, {"command": "kubevend"}, "shop")


def test_a_kubeconfig_keeps_what_else_is_in_it(tmp_path: Path) -> None:
    """Merged twice it is there once; what was there stays, with the current context; a link stays a link."""
    file, link = tmp_path / "real", tmp_path / "link"
    other = {"name": "old", "user": {"token": "t"}}
    file.write_text(yaml.safe_dump({"current-context": "old", "users": [other], "preferences": {"colors": True}}))
    link.symlink_to(file)
    for _ in range(2):
        kubeconfig_file.write(link, ENTRY.merged_into(kubeconfig_file.read(link)))
    found = yaml.safe_load(file.read_text())
    assert [user["name"] for user in found["users"]] == ["old", "new"]
    assert [each["name"] for each in found["clusters"]] == ["new"]
    assert (found["current-context"], found["preferences"], link.is_symlink()) == ("old", {"colors": True}, True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert ENTRY.merged_into({})["current-context"] == "new"


def test_the_current_cluster_is_found_over_several_files(tmp_path: Path) -> None:
    """As for kubectl, the first file that says it decides, and a path is relative to its file."""
    first, second = tmp_path / "a" / "first", tmp_path / "b" / "second"
    for file in (first, second):
        file.parent.mkdir()
    first.write_text(yaml.safe_dump({"current-context": "c"}))
    cluster = {"name": "k", "cluster": {"server": "https://k", "certificate-authority": "ca.crt"}}
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    second.write_text(yaml.safe_dump({"current-context": "other", "clusters": [cluster], "contexts": [context]}))
    found = kubeconfig_file.current_cluster([first, second, tmp_path / "none"])
    assert found == {"server": "https://k", "certificate-authority": str(tmp_path / "b" / "ca.crt")}
    assert kubeconfig_file.current_cluster([first]) is None


def test_a_kubeconfig_that_is_none_is_not_quoted(tmp_path: Path) -> None:
    """An error about a kubeconfig has nothing of what is in it."""
    file = tmp_path / "config"
    for text in ("users: [{token: hidden", "hidden"):
        file.write_text(text)
        with pytest.raises(click.ClickException) as refused:
            kubeconfig_file.read(file)
        assert "hidden" not in refused.value.message


def test_a_kubeconfig_names_all_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is called by an absolute path, with each option that was given, and where kubevend is; what is not set
    is emptied, since kubectl hands its own environment on.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).with_name("kubevend"))])
    for name in [name for name in os.environ if name.startswith("KUBEVEND_")]:
        monkeypatch.delenv(name)
    options = ["--address", "k:1", "--token-file", "token", "--ttl", "30m", "--audience", "x", "-n", "shop"]
    done = invoke("kubeconfig", "roles/ci", "--server", "https://k8s", *options)
    assert done.exit_code == 0, done.output
    user = yaml.safe_load(done.output)["users"][0]["user"]["exec"]
    assert Path(user["command"]).is_absolute()
    assert user["args"] == ["credential", "ci", "--namespace", "shop", "--ttl", "1800s", "--audience", "x"]
    assert {each["name"]: each["value"] for each in user["env"]} == {
        "KUBEVEND_ADDRESS": "k:1",
        "KUBEVEND_CA_FILE": "",
        "KUBEVEND_TOKEN_FILE": str(tmp_path / "token"),
        "KUBEVEND_CLIENT_CERT_FILE": "",
        "KUBEVEND_CLIENT_KEY_FILE": "",
    }
    assert (user["interactiveMode"], user["provideClusterInfo"]) == ("Never", False)


def test_another_version_of_the_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls is answered in the version that it asks for, or told what is wrong."""
    for info, said in (
        (json.dumps({"apiVersion": "client.authentication.k8s.io/v1beta1"}), "speaks client.authentication.k8s.io/v1:"),
        ("{", "is no ExecCredential"),
        ("[]", "is no ExecCredential"),
    ):
        monkeypatch.setenv("KUBERNETES_EXEC_INFO", info)
        done = invoke("credential", "ci", "--address", "127.0.0.1:1")
        assert said in done.output
        assert (done.exit_code, done.stdout) == (1, "")
