"""The first run, as the README promises it."""

import base64
import json
import re
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from devcluster.report import READY
from tests.e2e.quickstart_process import ROOT, Quickstart, wait_until

DEMO = "system:serviceaccount:kubevend-quickstart:demo"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """A first run that is ready, for all tests that only use it."""
    with Quickstart(tmp_path_factory.mktemp("first")) as running:
        running.wait_ready()
        yield running


def readme_commands() -> str:
    """The commands of the README that get a token."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (commands,) = [block for block in blocks if ".IssueService/IssueToken" in block]
    return str(commands)


def printed_commands(run: Quickstart) -> list[tuple[str, str]]:
    """Each suggestion that the run prints: its comment and its commands."""
    suggestions = run.output.partition("Try next")[2].partition(READY)[0]
    found = re.findall(r"^    # (.*)\n((?:    .*\n)+)", suggestions, re.MULTILINE)
    return [(comment, commands) for comment, commands in found]


def issued(output: str) -> dict[str, Any]:
    """The last JSON object that grpcurl printed."""
    answer: dict[str, Any] = json.loads(output[output.index("{") :])
    return answer


def who_is(run: Quickstart, token: str) -> str:
    """The name by which the API server knows the bearer of a token."""
    script = '. .dev/env; kubectl --context=anonymous --token="$TOKEN" auth whoami --output=json'
    done = run.shell(script, TOKEN=token)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["status"]["userInfo"]["username"])


def audit_event(run: Quickstart, lease: str) -> dict[str, Any]:
    """The event of the call that granted a lease."""
    events = [json.loads(line) for line in (run.dev / "audit.jsonl").read_text().splitlines()]
    (found,) = [e for e in events if e.get("lease") == lease and e["stage"] == "STAGE_COMPLETE"]
    return dict(found)


def mode(path: Path) -> str:
    """The permissions of a file, as in "-rw-------"."""
    return stat.filemode(path.stat().st_mode)


def test_the_commands_of_the_readme_issue_a_token_that_works(run: Quickstart) -> None:
    """What the README says to type, typed as it stands, gets a token that the cluster accepts as demo's."""
    done = run.shell(readme_commands())

    assert done.returncode == 0, done.stderr
    answer = issued(done.stdout)
    assert who_is(run, answer["token"]) == DEMO


def test_the_commands_of_the_readme_are_those_that_are_printed(run: Quickstart) -> None:
    """The README and the terminal say the same."""
    printed = [[line.strip() for line in commands.splitlines()] for _, commands in printed_commands(run)]
    assert [line.strip() for line in readme_commands().splitlines()] in printed


def test_each_printed_command_works(run: Quickstart) -> None:
    """Every suggestion can be pasted into a shell; only the one that shows a refusal is refused."""
    statuses = {
        comment: run.shell(f"set -e; . .dev/env\n{commands}").returncode for comment, commands in printed_commands(run)
    }

    assert len(statuses) > 3
    assert [comment for comment, status in statuses.items() if status != 0] == ["a refusal, and how it explains itself"]


def test_no_token_is_printed(run: Quickstart) -> None:
    """The output can be shown to anybody: it has no JWT and no admin token."""
    assert "eyJ" not in run.output
    assert (run.dev / "admin.token").read_text().strip() not in run.output


def test_it_leaves_what_it_promises(run: Quickstart) -> None:
    """Each file is there, and what is secret is its owner's alone."""
    private = ("admin.token", "kubeconfig", "env", "audit.jsonl", "credentials/kubevend.token", "server.key")
    assert {name: mode(run.dev / name) for name in private} == dict.fromkeys(private, "-rw-------")
    assert mode(run.dev) == "drwx------"
    for name in ("ca.crt", "kubevend.protoset", "kube-audit.log", "settings.toml", "policies/quickstart.cedar"):
        assert (run.dev / name).stat().st_size > 0


def test_the_environment_file_names_everything_absolutely(run: Quickstart) -> None:
    """After `. .dev/env`, from any folder, each variable leads to its file and the commands are found."""
    script = """
        . .dev/env && . .dev/env && cd / && printf '%s\\n' "$KUBEVEND_CA_FILE" "$KUBEVEND_TOKEN_FILE" \
          "$KUBEVEND_AUDIT_FILE" "$KUBEVEND_PROTOSET" "$KUBECONFIG" "$(command -v grpcurl)" "$(command -v kubectl)"
    """
    names = ("ca.crt", "admin.token", "audit.jsonl", "kubevend.protoset", "kubeconfig")
    commands = [str(ROOT / ".venv/bin" / name) for name in ("grpcurl", "kubectl")]

    assert run.shell(script).stdout.splitlines() == [*(str(run.dev / name) for name in names), *commands]


def test_the_protoset_serves_in_place_of_reflection(run: Quickstart) -> None:
    """The descriptor set alone is enough to describe a method."""
    done = run.shell('. .dev/env; grpcurl -protoset "$KUBEVEND_PROTOSET" describe kubevend.v1.IssueService.IssueToken')
    assert "rpc IssueToken" in done.stdout


def test_the_audit_line_joins_to_the_api_servers_own(run: Quickstart) -> None:
    """Our line's jti and Audit-ID are those of the API server's line of the same TokenRequest."""
    answer = issued(run.shell(readme_commands()).stdout)
    event = audit_event(run, answer["lease"])
    theirs = [json.loads(line) for line in (run.dev / "kube-audit.log").read_text().splitlines()]
    (same,) = [e for e in theirs if e["auditID"] == event["kubernetesAuditId"]]

    assert event["jti"] == answer["jti"]
    assert same["annotations"]["authentication.kubernetes.io/issued-credential-id"] == f"JTI={event['jti']}"
    assert same["user"]["username"] == "system:serviceaccount:kubevend:kubevend"


def test_a_service_account_issues_under_its_own_name(run: Quickstart) -> None:
    """A ServiceAccount with a token for kubevend may issue through the role, and the audit event says that it did."""
    done = run.shell("""
        . .dev/env
        TOKEN=$(kubectl create token demo -n kubevend-quickstart --audience=kubevend)
        echo "$TOKEN" >&2
        grpcurl -cacert "$KUBEVEND_CA_FILE" -H "authorization: Bearer $TOKEN" \
          -d '{"role":"roles/quickstart"}' "$KUBEVEND_ADDRESS" kubevend.v1.IssueService/IssueToken
    """)
    assert done.returncode == 0, done.stderr
    answer = issued(done.stdout)
    payload = done.stderr.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))

    assert who_is(run, answer["token"]) == DEMO
    assert audit_event(run, answer["lease"])["caller"] == {
        "name": "kubernetes://dev/kubevend-quickstart/demo",
        "mechanism": "token_review",
        "credentialId": claims["jti"],
    }


def test_kubevend_has_no_more_rights_than_it_needs(run: Quickstart) -> None:
    """Its own credential may create tokens of demo, and neither those of another nor read Secrets."""
    questions = {
        "create serviceaccounts/demo --subresource=token -n kubevend-quickstart": "yes",
        "create serviceaccounts/other --subresource=token -n kubevend-quickstart": "no",
        "create serviceaccounts/demo --subresource=token -n default": "no",
        "list secrets -n kubevend-quickstart": "no",
    }
    asks = "kubectl auth can-i --as=system:serviceaccount:kubevend:kubevend"
    answers = {q: run.shell(f". .dev/env; {asks} {q} 2>/dev/null").stdout.strip() for q in questions}
    assert answers == questions


def test_a_second_one_in_the_same_folder_refuses(run: Quickstart) -> None:
    """Two at once would share a store and a port: the second says who is there, and leaves."""
    second = Quickstart(run.here)
    with second:
        assert second.wait() == 1
    assert f"Another `make run` (process {run.process.pid})" in second.output


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """The message says which port, and how to choose another in the same folder, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Quickstart(tmp_path, KUBEVEND_PORT=str(port)) as run:
            assert run.wait() == 1
    assert f"Port {port} of 127.0.0.1" in run.output
    assert re.search(rf": KUBEVEND_DEV_DIR={re.escape(str(run.dev))} KUBEVEND_PORT=\d+ make run$", run.output)


def test_another_folders_cluster_is_not_taken_for_somebody_elses(run: Quickstart, tmp_path: Path) -> None:
    """In a shell that has read another folder's `env`, a run says whose cluster KUBECONFIG names, and what to do."""
    kubeconfig = run.shell('. .dev/env; echo "$KUBECONFIG"').stdout.strip()
    with Quickstart(tmp_path, KUBECONFIG=kubeconfig) as other:
        assert other.wait() == 1
    assert f"KUBEVEND_DEV_DIR={run.dev} KUBEVEND_PORT=0 make run\n" in other.output
    assert "unset KUBECONFIG" in other.output
    assert "…" not in other.output, "nothing was begun"


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message says which file KUBECONFIG names, and what to do, before anything is started."""
    with Quickstart(tmp_path, KUBECONFIG=str(tmp_path / "absent")) as run:
        assert run.wait() == 1
    assert run.output == (
        "✗ KUBECONFIG names absent, which is not there. Correct it to use a cluster that you have; for a development "
        "cluster, unset KUBECONFIG and run again."
    )


def test_a_policy_that_cannot_be_used_stops_it_first(tmp_path: Path) -> None:
    """A fault in a policy is told with its file, before anything is started."""
    policies = tmp_path / ".dev" / "policies"
    policies.mkdir(parents=True)
    (policies / "mine.cedar").write_text('@id("wrong") permit (principal, action, resource) when { resource.colour };')
    with Quickstart(tmp_path) as run:
        assert run.wait() == 1
    assert re.match(r"✗ .*mine\.cedar: wrong: .*colour", run.output)
    assert ".dev/policies" in run.output
    assert "…" not in run.output, "nothing was begun"


def test_ctrl_c_stops_everything_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """No process is left after SIGINT; a second run finds the config, the role and the leases of the first."""
    with Quickstart(tmp_path) as first:
        first.wait_ready()
        assert len(first.processes()) >= 4
        assert first.stop() == 0
    assert first.processes() == []
    lease = re.search(r"leases/\w+", first.output)
    assert lease is not None

    with Quickstart(tmp_path) as second:
        second.wait_ready()
        listed = second.shell(
            """
            . .dev/env
            grpcurl -cacert "$KUBEVEND_CA_FILE" -H "authorization: Bearer $(cat "$KUBEVEND_TOKEN_FILE")" \
              "$KUBEVEND_ADDRESS" kubevend.v1.LeaseService/ListLeases
            """
        )
        verified = second.shell(". .dev/env; kubevend-server audit verify --settings .dev/settings.toml")
        assert second.stop(signal.SIGTERM) == 0
    assert lease[0] in listed.stdout
    assert second.output.count("found from an earlier run") == 3
    assert verified.returncode == 0, verified.stderr
    assert second.processes() == []


@pytest.mark.parametrize(
    "line",
    [
        "… Start the development cluster",
        "… Make two namespaces",
        "… Start kubevend-server",
        "… Issue a token",
    ],
)
def test_ctrl_c_during_a_step_leaves_no_process(tmp_path: Path, line: str) -> None:
    """Wherever the signal comes, what was started is stopped, and the next run is not harmed by what was left."""
    with Quickstart(tmp_path) as run:
        run.wait_for(line)
        assert run.stop() == 130
    assert run.processes() == []

    with Quickstart(tmp_path) as again:
        again.wait_ready()


def test_ctrl_c_right_after_the_start_leaves_no_process(tmp_path: Path) -> None:
    """Before anything is set up, the signal ends the program, by its own hand or by Python's."""
    with Quickstart(tmp_path) as run:
        assert run.stop() in (130, -signal.SIGINT)
    assert run.processes() == []


def test_ctrl_c_during_the_compile_ends_the_compilers(tmp_path: Path) -> None:
    """`go build` has many processes; none of them goes on."""
    with Quickstart(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")) as run:
        run.wait_for("Compiling devcluster with Go")
        wait_until(lambda: [p for p in run.processes() if p.name() in ("compile", "asm")], 120)
        assert run.stop() == 130
    assert run.processes() == []


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("kubevend_server.cli", "kubevend-server ended by itself"),
        ("kube-apiserver", "kube-apiserver of the development cluster ended by itself"),
    ],
)
def test_it_ends_when_a_part_dies(tmp_path: Path, command: str, complaint: str) -> None:
    """If the server or the cluster dies, the run says which, stops the rest, and fails."""
    with Quickstart(tmp_path) as run:
        run.wait_ready()
        (victim,) = [p for p in run.processes() if command in p.cmdline()]
        victim.kill()
        assert run.wait() == 1
    assert complaint in run.output
    assert run.processes() == []


def test_another_cluster_is_only_touched_with_consent(tmp_path: Path) -> None:
    """With KUBECONFIG set, it names what it would make; without a yes it makes nothing, with one it works there."""
    with DevCluster.start() as cluster:
        kubeconfig = str(shutil.copy(cluster.kubeconfig, tmp_path / "theirs"))
        with Quickstart(tmp_path, KUBECONFIG=kubeconfig) as asking:
            assert asking.wait() == 1
        assert "ClusterRoleBinding kubevend-callers:kubevend:kubevend" in asking.output
        assert "KUBEVEND_YES=1" in asking.output
        assert "kubevend" not in cluster.kubectl("get", "namespaces")

        with Quickstart(tmp_path, KUBECONFIG=kubeconfig, KUBEVEND_YES="1") as run:
            run.wait_ready()
            done = run.shell(readme_commands())
            answer = issued(done.stdout)
            assert who_is(run, answer["token"]) == DEMO
            assert run.shell('. .dev/env; echo "$KUBECONFIG"').stdout.strip() == kubeconfig
            assert not [p for p in run.processes() if "kube-apiserver" in p.cmdline()]
        assert cluster.ended() is None
