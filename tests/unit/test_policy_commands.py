"""`kubevend-server policy check`, `explain` and `test`, as they are typed."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kubevend_server.cli import main
from kubevend_server.encryption import Keyring, read_keys
from kubevend_server.roles import LabelSelector
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from tests.unit.builders import config, role

STARTERS = Path(__file__).parents[2] / "deploy" / "policies"
RUNNER = "spiffe://example.org/ns/apps/sa/runner"
GOOD = '@id("good") permit(principal is Admin, action == Action::"GetRole", resource);\n'
OWN_NAMESPACE = """\
@id("own")
permit(principal is Workload, action == Action::"IssueToken", resource)
when {
  principal has namespace && principal.namespace == context.namespace &&
  resource.hasTag("team") && resource.getTag("team") == "payments"
};
@id("guard") forbid(principal, action == Action::"IssueToken", resource) when { context.ttl > 3600 };
"""


def run(*arguments: str | Path) -> Result:
    """Run `kubevend-server policy`."""
    return CliRunner().invoke(main, ["policy", *map(str, arguments)])


def write(folder: Path, **files: str | bytes) -> Path:
    """Put policy files into a folder: `a="…"` is a.cedar."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.cedar").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (GOOD.replace("GetRole", "GetRoles"), 1, "did you mean GetRole?"),
        (GOOD.replace("Admin", "Admins"), 1, "did you mean Admin?"),
        (GOOD.replace('@id("good") ', "// none\n"), 2, "has no @id"),
        (GOOD + GOOD, 2, "{folder}/a.cedar:1 has this @id too"),
        (GOOD.replace(";", "") + GOOD.replace("good", "next"), 2, "is the ; missing that ends a policy?"),
        (GOOD.replace(";", ""), 1, "is the ; missing that ends a policy?"),
        (GOOD.replace("is Admin", "== ?principal"), 1, "template"),
        ("\ufeff" + GOOD, 1, "byte order mark"),
        (b"// fine\n// \xe9\n" + GOOD.encode(), 2, "is no UTF-8"),
        (GOOD.replace(";", '\nwhen {\n  context.namespace == "a"\n};'), 3, "attribute `namespace` in context"),
        (GOOD.replace(";", '\n// ;"\nwhen { resource.getTag("a;\\"") == "x" };'), 3, "hasTag("),
        (
            GOOD.replace(";", '\r\nwhen {\r\n  principal.pod == "x"\r\n};').replace("Admin", "ServiceAccount"),
            3,
            "has pod",
        ),
        (GOOD.replace(";", ' when { "open };'), 1, 'is a " missing?'),
        (GOOD.replace(";", "\nwhen { principal == principal &&\nprincipal = principal };"), 3, "write =="),
        (GOOD.replace("resource)", 'resource in Config::"configs/a")'), 1, "the policy could never apply"),
        (
            GOOD + GOOD.replace("good", "b").replace(";", " when { " + "(" * 9000 + " };"),
            2,
            "64 brackets in one another",
        ),
        (GOOD.replace(";", " when { " + "true || " * 100 + "true };"), 1, "the policy 'good' has too many conditions"),
        (GOOD.replace("is Admin", 'in Group::"platfrom"'), 1, "did you mean platform?"),
        (GOOD.replace("is Admin", '== Group::"platform"'), 1, 'write principal in Group::"platform"'),
        (GOOD.replace('"GetRole"', '"view"'), 1, 'write action in Action::"view"'),
        (GOOD.replace("is Admin", '== "admin://local/bootstrap"'), 1, "write its type and, in quotes, its name"),
        (GOOD.replace("permit", "allow"), 1, "write permit or forbid"),
        (GOOD.replace('"', "'", 2), 1, "in double quotes"),
        (GOOD.replace(";", " when { true and true };"), 1, "write &&"),
        (GOOD.replace(";", ' when { principal.repository == "a" };').replace("Admin", "OidcSubject"), 1, "hasTag("),
        (GOOD.replace("GetRole", "IssueToken").replace(";", ' when { context.ttl < "15m" };'), 1, "is in seconds"),
    ],
)
def test_a_fault_is_told_with_its_place(content: str | bytes, line: int, told: str, tmp_path: Path) -> None:
    """Each fault is one line with file, line and what to do; the exit code is 1."""
    folder = write(tmp_path / "policies", a=content)
    (folder / "groups.toml").write_text('[groups]\nplatform = ["admin://local/bootstrap"]\n')

    result = run("check", folder)

    assert result.exit_code == 1, result.output
    (fault,) = [found for found in result.output.splitlines() if " error: " in found]
    assert fault.startswith(f"{folder}/a.cedar:{line}: error: ")
    assert told.format(folder=folder) in fault


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ('permit(principal, action == Action::"GetRole", resource);', "permits every caller"),
        ("forbid(principal, action, resource);", "forbids everything to everybody"),
        ('permit(principal is Admin, action == Action::"GetRole", resource) when { false };', "never holds"),
        ('permit(principal is Admin, action == Action::"GetRole", resource) unless { true };', "never holds"),
        (
            'permit(principal == ServiceAccount::"runner", action, resource);',
            "kubernetes://{cluster}/{namespace}/{name}",
        ),
        ('permit(principal is Admin, action, resource == Role::"ci");', "roles/{role}"),
        (
            'permit(principal is Workload, action, resource) when { principal.name like "spiffe://example.org*" };',
            '"spiffe://example.org/*"',
        ),
    ],
)
def test_what_is_hardly_meant_is_a_warning(policy: str, told: str, tmp_path: Path) -> None:
    """It is told, and taken all the same: the server takes it too."""
    result = run("check", write(tmp_path, a=f'@id("a") {policy}'))

    assert result.exit_code == 0, result.output
    (warning,) = [found for found in result.output.splitlines() if " warning: " in found]
    assert told in warning


@pytest.mark.parametrize(
    "policy",
    [
        'permit(principal, action == Action::"GetLease", resource) when { resource.caller == principal.name };',
        'forbid(principal, action == Action::"IssueToken", resource) when { context.cluster_wide };',
        'permit(principal is Workload, action, resource) when { principal.name like "spiffe://example.org/*" };',
    ],
)
def test_what_is_meant_is_no_warning(policy: str, tmp_path: Path) -> None:
    """A policy that says whom it is for, or when, leaves nothing to tell."""
    result = run("check", write(tmp_path, a=f'@id("a") {policy}'))

    assert result.output == "1 policy in 1 file: nothing wrong; it would be taken.\n"


@pytest.mark.parametrize(
    ("condition", "warned"),
    [
        ('context.namespace like "*-{0}-*"', True),
        ('context.ttl + {0} > 0 && context.audiences.contains("a{0}")', True),
        ('context.namespace like "{0}-*"', False),
        ("context.ttl < {0}", False),
    ],
)
def test_policies_that_every_question_comes_to_are_a_warning(condition: str, warned: bool, tmp_path: Path) -> None:
    """More than a hundred are told together, by action and name; those that a question can exclude are not."""
    shape = '@id("p{0:03}") permit(principal is Workload, action == Action::"IssueToken", resource)'
    text = "\n".join(f"{shape} when {{{{ {condition} }}}};".format(number) for number in range(101))

    result = run("check", write(tmp_path, a=text))

    assert result.exit_code == 0, result.output
    told = [found for found in result.output.splitlines() if " warning: " in found]
    assert len(told) == warned
    assert all(
        "p000: each IssueToken has 101 policies evaluated" in each and "p000, p001, p002, …" in each for each in told
    )


def test_what_is_no_set_of_policies_is_told(tmp_path: Path) -> None:
    """An empty folder is taken with a warning; one that is not there is a mistake in the call."""
    empty, missing = run("check", tmp_path), run("check", tmp_path / "missing")

    assert (empty.exit_code, missing.exit_code) == (0, 2)
    assert "nobody may do anything" in empty.output
    assert "does not exist" in missing.output


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """One fault hides no other, neither in its file nor in the next."""
    wrong = GOOD.replace("GetRole", "GetRoles")
    folder = write(tmp_path, a=wrong + "permit(;", b=b"\xff", c=wrong)
    (folder / "groups.toml").write_text('[groups]\nfine = []\nx = ["nobody"]\n')

    result = run("check", folder)

    faults = [found for found in result.output.splitlines() if ": error: " in found]
    places = [found.split(": ")[0].removeprefix(f"{folder}/") for found in faults]
    assert places == ["a.cedar:1", "a.cedar:2", "b.cedar:1", "c.cedar:1", "c.cedar:1", "groups.toml:3"]


def test_links_and_hidden_files_count_as_for_the_server(tmp_path: Path) -> None:
    """A ConfigMap's volume has its files behind links to a hidden folder: each is checked once."""
    hidden = write(tmp_path / "..data", a=GOOD)
    (tmp_path / "a.cedar").symlink_to(hidden / "a.cedar")
    (tmp_path / ".hidden.cedar").write_text("no policy")

    assert run("check", tmp_path).output == "1 policy in 1 file: nothing wrong; it would be taken.\n"


def test_a_thousand_policies_are_checked_and_explained(tmp_path: Path) -> None:
    """Their number changes nothing but the time; of those that nearly permit, five are told."""
    policies = [
        f'@id("p{n}") permit(principal == Workload::"spiffe://a.b/{n}", action == Action::"GetRole", resource);'
        for n in range(1000)
    ]
    write(tmp_path, a="\n".join(policies))

    assert run("check", tmp_path).output == "1000 policies in 1 file: nothing wrong; they would be taken.\n"
    result = run("explain", tmp_path, "--action", "GetRole", "--role", "ci", "--caller", "spiffe://a.b/x")
    assert result.exit_code == 1
    assert result.output.count("would permit it, but for") == 5
    assert "and 995 permits more" in result.output


def test_no_colors_where_there_is_no_terminal(tmp_path: Path) -> None:
    """What a CI job logs has no escape sequences."""
    write(tmp_path, a="permit(;")

    assert "\x1b" not in run("check", tmp_path).output


def explain(folder: Path, **options: str) -> Result:
    """Ask about a token of roles/ci, whose team is payments."""
    given = {"caller": RUNNER, "role": "ci", "namespace": "apps", "label": "team=payments", **options}
    written = [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]
    return run("explain", folder, *written)


def test_what_is_allowed_names_what_allows_it(tmp_path: Path) -> None:
    """The policy is told with its place, each rule of the role, and what was made up."""
    result = explain(write(tmp_path, a=OWN_NAMESPACE), service_account="web", ttl="60s")

    assert result.exit_code == 0
    assert result.output == (
        f"ALLOWED  {RUNNER} may IssueToken on roles/ci\n"
        f"  permitted by own ({tmp_path}/a.cedar:1)\n"
        "  granted: namespace: asked, and in allowed_namespaces of roles/ci\n"
        "  granted: service_account_name: asked, and in allowed_service_accounts of roles/ci\n"
        "  granted: audiences: default_audiences of roles/ci\n"
        "  granted: ttl: asked\n"
        "  assumed: roles/ci allows this much: its own rules are not known without --settings\n"
        "  assumed: audiences https://kubernetes.default.svc\n"
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"namespace": "other"},
            [
                "no policy permits it",
                "own ({folder}/a.cedar:1) would permit it, but for:",
                "    when {{ principal.namespace == context.namespace }}",
                '        principal.namespace is "apps"',
                '        context.namespace is "other"',
            ],
        ),
        (
            {"caller": "spiffe://example.org/vm/1"},
            [
                "no policy permits it",
                "own ({folder}/a.cedar:1) would permit it, but for:",
                # What asks for principal.namespace is not reached, so it is not told.
                "    when {{ principal has namespace }}",
                "        principal.namespace is not set",
            ],
        ),
        (
            {"caller": "kubernetes://prod/apps/runner", "label": ""},
            [
                "no policy permits it",
                "own ({folder}/a.cedar:1) would permit it, but for:",
                "    principal is Workload",
                '        principal is ServiceAccount::"kubernetes://prod/apps/runner"',
                '    when {{ resource.hasTag("team") }}',
                '        resource.getTag("team") is not set',
            ],
        ),
        (
            {"ttl": "2h"},
            [
                "forbidden by guard ({folder}/a.cedar:7)",
                "    any principal",
                "    when {{ context.ttl > 3600 }}",
                "own ({folder}/a.cedar:1) would permit it",
            ],
        ),
    ],
)
def test_what_is_denied_names_what_came_nearest(asked: dict[str, str], told: list[str], tmp_path: Path) -> None:
    """Each part of a permit that does not hold is told, with the values that it looks at; so is what forbids."""
    result = explain(write(tmp_path, a=OWN_NAMESPACE), **asked)

    assert result.exit_code == 1
    lines = result.output.splitlines()
    end = lines.index("  the caller may not get it either, so it is told that there is none")
    assert [line.removeprefix("  ") for line in lines[1:end]] == [line.format(folder=tmp_path) for line in told]


def test_without_a_caller_it_tells_who_may(tmp_path: Path) -> None:
    """The permits that can apply to the role are told in words, with their groups' members, and what may forbid it."""
    permit = '@id("team") permit(principal in Group::"team", action, resource);'
    write(tmp_path, a=OWN_NAMESPACE, b=permit, c='@id("c") permit(principal, action == Action::"GetRole", resource);')
    (tmp_path / "groups.toml").write_text(f'[groups]\nteam = ["{RUNNER}", "kubernetes://prod/apps/*"]\n')

    payments, other = explain(tmp_path, caller=""), explain(tmp_path, caller="", label="team=other")

    assert payments.output == (
        "Who may IssueToken on roles/ci: 2 policies permit it:\n"
        f"  own ({tmp_path}/a.cedar:1)\n"
        "    principal is Workload\n"
        "    when { principal has namespace }\n"
        "    when { principal.namespace == context.namespace }\n"
        '    when { resource.hasTag("team") }\n'
        '    when { (resource.getTag("team")) == "payments" }\n'
        f"  team ({tmp_path}/b.cedar:1)\n"
        '    principal in Group::"team"\n'
        f"    team: kubernetes://prod/apps/*, {RUNNER}\n"
        "Unless one of these forbids it:\n"
        f"  guard ({tmp_path}/a.cedar:7)\n"
        "    any principal\n"
        "    when { context.ttl > 3600 }\n"
    )
    assert "1 policy permits it:\n  team" in other.output


def test_groups_of_the_file_and_of_the_token_count(tmp_path: Path) -> None:
    """A caller is in the groups that groups.toml gives it, and in those of its token."""
    write(tmp_path, a='@id("a") permit(principal in Group::"team", action, resource);')
    write(tmp_path, b='@id("b") permit(principal in Group::"corp:ops", action, resource);')
    (tmp_path / "groups.toml").write_text('[groups]\nteam = ["oidc://corp/bob"]\n')

    assert "permitted by a (" in explain(tmp_path, caller="oidc://corp/bob").output
    assert "permitted by b (" in explain(tmp_path, caller="oidc://corp/eve", group="corp:ops").output
    assert "its groups is corp:other" in explain(tmp_path, caller="oidc://corp/eve", group="corp:other").output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"caller": "runner"}, "is no caller's name"),
        ({"caller": "oidc://corp/a b"}, "percent-encoded"),
        ({"pod": "x"}, "has no pod: only callers named kubernetes://"),
        ({"action": "IssueTokens"}, "did you mean IssueToken?"),
        ({"action": "CreateRole"}, "kubevend-server policy test"),
        ({"ttl": "600"}, "write 600s, 10m, 1h or 1d"),
        ({"time": "noon"}, "write 2026-05-04T12:00:00Z"),
        ({"label": "team"}, "write NAME=VALUE"),
        ({"role": ""}, "give --role"),
    ],
)
def test_a_question_that_cannot_be_put_is_refused(options: dict[str, str], told: str, tmp_path: Path) -> None:
    """The exit code is neither that of yes nor that of no, and the message says what to write."""
    result = explain(write(tmp_path, a=OWN_NAMESPACE), **options)

    assert result.exit_code == 2
    assert told in result.output


def test_policies_that_cannot_be_used_explain_nothing(tmp_path: Path) -> None:
    """What a server would refuse decides nothing here either."""
    result = explain(write(tmp_path, a=OWN_NAMESPACE, b="permit(;"))

    assert result.exit_code == 2
    assert f"{tmp_path}/b.cedar:1" in result.output
    assert "kubevend-server policy check" in result.output


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The settings of a server whose store has roles/ci, for one namespace and an hour at the most."""
    database = Database(f"sqlite:///{tmp_path}/kubevend.db")
    database.migrate()
    keyring = Keyring(read_keys(tmp_path / "store.key"))
    with database.writer.begin() as connection:
        ConfigStore(keyring).insert(config())(connection)
        role_store.insert(role(max_ttl=timedelta(hours=1)))(connection)
        selector = LabelSelector((("team", "payments"),))
        role_store.insert(role(name="roles/labeled", allowed_namespace_selector=selector))(connection)
    database.close()
    write(tmp_path / "policies", a=OWN_NAMESPACE)
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
[listener]
address = "127.0.0.1:0"
insecure_loopback = true
[store]
url = "sqlite:///{tmp_path}/kubevend.db"
key_file = "{tmp_path}/store.key"
[audit]
file = "{tmp_path}/audit.jsonl"
key_file = "{tmp_path}/audit.key"
[callers]
audience = "kubevend"
[callers.clusters.prod]
[callers.issuers.ci]
issuer = "https://ci.example"
claims = ["ref"]
[callers.trust_domains."example.org"]
address = "127.0.0.1:7444"
bundle_file = "{tmp_path}/bundle.pem"
certificate_file = "{tmp_path}/server.crt"
private_key_file = "{tmp_path}/server.key"
[callers.proxies.edge]
socket = "{tmp_path}/edge.sock"
by = ""
trust_domains = ["mesh.example"]
[policy]
folder = "{tmp_path}/policies"
[issuance]
max_ttl_seconds = 1800
"""
    )
    return file


def test_a_servers_roles_speak_first(settings: Path) -> None:
    """With --settings the role is that of the store, with its labels, its rules and the server's limits."""
    ask = ("explain", "--settings", settings, "--caller", RUNNER, "--role", "ci")

    allowed, refused = run(*ask, "--ttl", "2h"), run(*ask, "--namespace", "kube-system")
    missing, relabeled = run(*ask[:-1], "cd"), run(*ask, "--label", "team=payments")

    assert allowed.exit_code == 0
    assert "granted: ttl: shortened from 3600s to 1800s by the server's max_ttl" in allowed.output
    assert "assumed" not in allowed.output
    assert refused.exit_code == 1
    assert "the role's own rules refuse it: roles/ci does not allow namespace 'kube-system'" in refused.output
    assert (missing.exit_code, relabeled.exit_code) == (2, 2)
    assert "There is no roles/cd. There is roles/ci, roles/labeled." in missing.output
    assert "leave out --label" in relabeled.output


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (("kubernetes://dev/apps/web",), "no 'dev' in callers.clusters, so nobody calls like that. There is prod."),
        (("oidc://github/x",), "no 'github' in callers.issuers"),
        (("oidc://ci/x", "--claim", "branch=main"), "no 'branch' in claims of callers.issuers.ci"),
        (("spiffe://mesh.example/a",), "no 'mesh.example' in callers.trust_domains"),
        (("spiffe://mesh.example/a", "--proxy", "edgy"), "no 'edgy' in callers.proxies"),
        (("spiffe://example.org/a", "--proxy", "edge"), "no 'example.org' in trust_domains of callers.proxies.edge"),
        (("kubernetes://prod/apps/web",), ""),
        (("oidc://ci/x", "--claim", "ref=main"), ""),
        (("spiffe://mesh.example/a", "--proxy", "edge"), ""),
        (("admin://local/bootstrap",), ""),
    ],
)
def test_a_servers_settings_must_know_the_caller(who: tuple[str, ...], told: str, settings: Path) -> None:
    """With --settings nothing is said of a caller whom that server could never recognize: that would be no answer."""
    result = run("explain", "--settings", settings, "--role", "ci", "--caller", *who)

    assert result.exit_code == (2 if told else 1), result.output
    assert told in result.output


def test_labels_of_a_namespace_are_asked_for(settings: Path) -> None:
    """For a role that allows namespaces by their labels they are given, since there is no cluster to ask."""
    ask = ("explain", "--settings", settings, "--caller", "spiffe://example.org/ns/web/sa/x", "--role", "labeled")

    unknown, allowed, other = (
        run(*ask, "--namespace", "web", *labels)
        for labels in ((), ("--namespace-label", "team=payments"), ("--namespace-label", "team=shop"))
    )

    assert (unknown.exit_code, allowed.exit_code, other.exit_code) == (2, 0, 1)
    assert "give those of web as --namespace-label" in unknown.output
    assert "its labels fit allowed_namespace_selector" in allowed.output
    assert "[NAMESPACE_NOT_ALLOWED]" in other.output


CASES = """callers:
  runner: {name: "spiffe://example.org/ns/apps/sa/runner"}
roles:
  ci: {allowed_namespaces: [apps], allowed_service_accounts: [web], allowed_audiences: [a], labels: {team: payments}}
  other: {allowed_namespaces: [apps], allowed_service_accounts: [web], allowed_audiences: [a]}
leases:
  one: {role: ci, caller: runner, namespace: apps}
cases:
  - {name: one, caller: runner, role: ci, expect: allow}
"""


def cases(folder: Path, text: str) -> Result:
    """Test `OWN_NAMESPACE` by cases."""
    (write(folder, a=OWN_NAMESPACE) / "cases.yaml").write_text(text)
    return run("test", folder)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("role: ci, expect: allow", ""),
        ("role: ci, expect: allow, by: [own]", ""),
        ("role: other, expect: deny, by: []", ""),
        ("role: ci, ttl: 2h, expect: deny, by: [guard]", ""),
        ("role: ci, namespace: x, expect: refuse, reason: NAMESPACE_NOT_ALLOWED", ""),
        ("role: ci, expect: deny", "expected deny, got allow"),
        ("role: other, expect: allow", "expected allow, got deny"),
        ("role: ci, expect: allow, by: [guard]", "expected allow by guard, got it by own"),
        ("role: other, expect: deny, by: [guard]", "expected deny by guard, got it by no policy"),
        ("role: ci, ttl: 2h, expect: deny, by: []", "expected deny by no policy, got it by guard"),
        # A role's rules that refuse before a policy is asked prove nothing about policies.
        ("role: ci, namespace: x, expect: deny", "expected deny, got refuse"),
        (
            "role: ci, namespace: x, expect: refuse, reason: AUDIENCE_NOT_ALLOWED",
            "expected reason AUDIENCE_NOT_ALLOWED, got NAMESPACE_NOT_ALLOWED",
        ),
    ],
)
def test_a_case_fails_with_what_came_instead(case: str, told: str, tmp_path: Path) -> None:
    """What differs is told, with why; then the exit code is 1."""
    result = cases(tmp_path, CASES + f"  - {{name: two, caller: runner, {case}}}\n")

    assert result.exit_code == (1 if told else 0), result.output
    assert f"FAILED {tmp_path}/cases.yaml: two\n" in result.output if told else "2 passed" in result.output
    assert f"\n  {told}\n" in result.output or not told


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("expect: allow", "expct: allow", "cases[0].expct is nothing that it can have; did you mean expect?"),
        (", expect: allow", "", "cases[0] (one): it has no expect: say allow, deny, or refuse"),
        ("expect: allow", "expect: maybe", "cases[0].expect (one): Invalid enum value 'maybe': say allow, deny"),
        ("expect: allow", "expect: allow, ttl: 600", "cases[0].ttl (one): Expected `str`, got `int`: write 600s"),
        ("expect: allow", "expect: allow, by: []", "what no policy permits is denied"),
        ("expect: allow", "expect: allow, by: [owns]", "by names owns, but no policy has that @id"),
        ("expect: allow", "expect: refuse, by: [own]", "give reason"),
        ("expect: allow", "expect: allow, ttl: '60'", "write 600s, 10m, 1h or 1d"),
        ("expect: allow", "expect: allow, time: 2026-05-04", "write 2026-05-04T12:00:00Z"),
        ("expect: allow", "expect: allow, lease: one", "IssueToken is on a role: give role, and no more"),
        ("expect: allow", "expect: allow, action: ListRoles", "on the server itself"),
        ("expect: allow", "expect: allow, action: GetRole, ttl: 1h", "but GetRole has none"),
        ("expect: allow", "expect: allow, action: UpdateRole", "needs proposed"),
        ("expect: allow", "expect: allow, proposed: other", "IssueToken proposes nothing"),
        ("caller: runner, role: ci", "caller: runer, role: ci", "callers has no 'runer'; did you mean runner?"),
        ("role: ci, expect", "role: cii, expect", "roles has no 'cii'; did you mean ci?"),
        ("roles:\n  ci: {allowed_namespaces", "roles:\n  ci: {allowed_namespace", "did you mean allowed_namespaces?"),
        ("allowed_audiences: [a], labels", "allowed_audiences: [], labels", "roles.ci.allowed_audiences"),
        ("  other:", "  ci:", "line 5: 'ci' is there twice"),
        ("spiffe://example.org/", "spiffe:/", "is no caller's name"),
        ("callers:", "calers:", "calers is nothing that it can have; did you mean callers?"),
        ("cases:\n", "cases: [] #", "it has no cases"),
        ("cases:\n", "cases: [", "it is no YAML"),
    ],
)
def test_cases_that_cannot_be_used_are_refused(was: str, becomes: str, told: str, tmp_path: Path) -> None:
    """A file with a mistake tests nothing: it is refused with the place, and with what may be meant."""
    assert was in CASES

    result = cases(tmp_path, CASES.replace(was, becomes, 1))

    assert result.exit_code == 2, result.output
    assert f"{tmp_path}/cases.yaml: " in result.output
    assert told in result.output


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    """A test that finds nothing to test must not pass."""
    result = run("test", write(tmp_path, a=GOOD))

    assert result.exit_code == 2
    assert "has no *.yaml" in result.output


def test_the_starters_pass_their_tests_each_alone_and_all_together(tmp_path: Path) -> None:
    """Each folder passes its own cases; so do all policies in one folder, which pass the cases for that besides."""
    folders = sorted(folder for folder in STARTERS.iterdir() if folder.is_dir())
    for file in STARTERS.glob("*/*"):
        if file.suffix != ".yaml":
            assert not (tmp_path / file.name).exists(), file
            shutil.copy(file, tmp_path)

    for result in (
        *(run("check", folder) for folder in (*folders, tmp_path)),
        run("test", *folders),
        run("test", *folders, STARTERS / "together.yaml", "--policies", tmp_path),
    ):
        assert result.exit_code == 0, result.output
        assert "warning" not in result.output


@pytest.mark.parametrize("starter", sorted(STARTERS.glob("*/*.cedar")), ids=lambda path: path.stem)
def test_the_starters_tests_miss_no_policy(starter: Path, tmp_path: Path) -> None:
    """Without any one of its policies, a starter fails its tests."""
    text = starter.read_text()
    shutil.copytree(starter.parent, tmp_path, dirs_exist_ok=True)
    for found in re.finditer(r'@id\("([\w-]+)"\)\n[^;]*?\n\);|@id\("([\w-]+)"\)[^;]*;', text):
        (tmp_path / starter.name).write_text(text[: found.start()] + text[found.end() :])

        assert run("test", tmp_path).exit_code != 0, found[0]
