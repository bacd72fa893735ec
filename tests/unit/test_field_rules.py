from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from buf.validate import validate_pb2
from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import lease_service_pb2 as ls
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server.errors import InvalidArgument, Violation, to_status
from kubevend_server.field_rules import check_rules
from kubevend_server.services import convert

SERVICES = (cs, iss, ls, rs)
REQUESTS = [
    method.input_type
    for module in SERVICES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

A_CONFIG = (
    "must be the name of a config, configs/ID, where ID is 1 to 63 lower-case letters, digits and hyphens, a letter "
    "first and no hyphen last: configs/prod"
)
A_ROLE = (
    "must be the name of a role, roles/ID, where ID is 1 to 63 lower-case letters, digits and hyphens, a letter "
    "first and no hyphen last: roles/ci"
)
A_LEASE = (
    "must be the name of a lease as IssueToken and ListLeases tell it, leases/ID, where ID is 26 lower-case letters "
    "and digits: leases/01jdem3k2v8q5r7t9w1x3y5z7a"
)
AN_ID = "must be 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last: ci"
A_NAMESPACE = (
    "must be the name of a namespace, 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last: apps"
)
A_SERVICE_ACCOUNT = (
    "must be the name of a ServiceAccount, 1 to 253 lower-case letters, digits, hyphens and dots, a letter or digit "
    "first, last and on both sides of a dot: deployer"
)
A_FILE = (
    "must be the absolute path of a file, at most 1024 characters and none of them NUL: "
    "/var/run/secrets/clusters/prod/token"
)
A_LIFETIME = "must be whole seconds, more than 0s and at most 4294967295s: 3600s"
NOTHING = "what is left empty allows nothing"


@dataclass(frozen=True)
class Rule:
    """A rule of a field: how to put a value into a request, and what comes of it.

    Attributes:
        field: its path from the request.
        words: what the field must be.
        bad: values that break the rule, with how each is told; empty where it is not.
    """

    request: Callable[[Any], Message]
    field: str
    words: str
    good: Sequence[Any]
    bad: Mapping[Any, str] | Sequence[Any]

    def violations(self, value: Any) -> list[Violation]:
        """What must be told of a bad value."""
        told = self.bad[value] if isinstance(self.bad, Mapping) else ""
        return [Violation(self.field, told + self.words)]


def _issue(**fields: Any) -> iss.IssueTokenRequest:
    return iss.IssueTokenRequest(**{"role": "roles/ci", **fields})


SOUND: dict[str, Any] = {"allowed_namespaces": ["a"], "allowed_service_accounts": ["b"], "allowed_audiences": ["c"]}


def _role(**fields: Any) -> rs.CreateRoleRequest:
    return rs.CreateRoleRequest(role_id="ci", role=rs.Role(**{**SOUND, **fields}))


def _selecting(**fields: Any) -> rs.CreateRoleRequest:
    return _role(allowed_namespace_selector=rs.LabelSelector(**fields))


def _requirement(**fields: Any) -> rs.LabelSelectorRequirement:
    return rs.LabelSelectorRequirement(**{"key": "env", "operator": "OPERATOR_EXISTS", **fields})


def _named(request: Callable[[Any], Message], field: str, words: str, collection: str, empty: str = "") -> Rule:
    long = f"{collection}/{'a' * 64}"
    bad = {name: f"is {name!r}: " for name in ("ci", f"{collection}/", "other/ci", f"{collection}/Ci")}
    bad |= {f"{collection}/{id_}": f"is '{collection}/{id_}': " for id_ in ("-a", "a-", "1a", "a/b", "a_b", "a.b")}
    bad |= {f"{collection}/a\n": f"is '{collection}/a\\n': ", f"{collection}/ä": f"is '{collection}/\\xe4': ", long: ""}
    good = [f"{collection}/a", f"{collection}/a-1", f"{collection}/{'a' * 63}"]
    return Rule(request, field, words, good if empty else [*good, ""], bad | ({"": empty} if empty else {}))


def _id(request: Callable[[Any], Message], field: str) -> Rule:
    bad = {"": "is empty: ", "CI!": "is 'CI!': ", "a-": "is 'a-': ", "1": "is '1': ", "roles/a": "is 'roles/a': "}
    return Rule(request, field, AN_ID, ["a", "a-1", "a" * 63], {**bad, "a" * 64: ""})


def _lifetime(request: Callable[[Any], Message], field: str) -> Rule:
    good = [Duration(seconds=1), Duration(seconds=600), Duration(seconds=2**32 - 1)]
    bad = [Duration(), Duration(seconds=-1), Duration(seconds=2**32), Duration(seconds=10**15), Duration(nanos=-1)]
    return Rule(request, field, A_LIFETIME, good, bad)


def _longest(request: Callable[[Any], Message], field: str, length: int) -> Rule:
    return Rule(request, field, f"must be at most {length} characters", ["", "x", "ä" * length], ["x" * (length + 1)])


def _audiences(request: Callable[[Any], Message], field: str, words: str, least: int) -> list[Rule]:
    many = [f"a{number}" for number in range(21)]
    lists = Rule(request, field, words, [many[:1], many[:20], *([[]] if not least else [])], [["a", "a"], many])
    if least:
        lists = Rule(request, field, words, lists.good, [*lists.bad, []])
    return [
        lists,
        Rule(lambda item: request(["x", item]), f"{field}[1]", "must be at most 512 characters", ["y"], ["a" * 513]),
        Rule(lambda item: request([item]), f"{field}[0]", "must be at least 1 characters", ["y"], {"": "is empty: "}),
    ]


def _allowed(
    request: Callable[[Any], Message], field: str, kind: str, words: str, bad: Mapping[str, str]
) -> list[Rule]:
    many = [f"a{number}" for number in range(101)]
    all_words = f"must be at most 100 {kind}, each of them once, or * alone for all"
    common = {"": "is empty: ", "**": "is '**': ", "a*": "is 'a*': ", "A": "is 'A': ", "a/b": "is 'a/b': "}
    common |= {"-a": "is '-a': ", "a-": "is 'a-': ", "a\n": "is 'a\\n': ", "ä": "is '\\xe4': "}
    return [
        Rule(request, field, all_words, [[], ["*"], many[:1], many[:100]], [["a", "a"], many]),
        Rule(
            lambda item: request(["x", item]),
            f"{field}[1]",
            f"{words}; or * for all",
            ["*", "a", "0", "a-1", "a" * 63],
            {**common, **bad},
        ),
    ]


def _pages(request: Callable[..., Message]) -> list[Rule]:
    words = "must be 1 to 1000, or 0 for the default of 100"
    return [
        Rule(lambda size: request(page_size=size), "page_size", words, [0, 1, 1000], [-1, 1001, 2**31 - 1]),
        _longest(lambda token: request(page_token=token), "page_token", 2048),
    ]


NAMESPACE = {"a.b": "is 'a.b': ", "a" * 64: ""}
SERVICE_ACCOUNT = {"a..b": "is 'a..b': ", "a.-b": "is 'a.-b': ", ".a": "is '.a': ", "a" * 254: ""}

ISSUE_RULES = [
    _named(lambda name: _issue(role=name), "role", A_ROLE, "roles", empty="is empty: "),
    Rule(
        lambda name: _issue(namespace=name),
        "namespace",
        A_NAMESPACE,
        ["", "a", "0", "a-1", "a" * 63],
        {"*": "is '*': ", "A": "is 'A': ", "-a": "is '-a': ", "a/b": "is 'a/b': ", "a\n": "is 'a\\n': ", **NAMESPACE},
    ),
    Rule(
        lambda name: _issue(service_account_name=name),
        "service_account_name",
        A_SERVICE_ACCOUNT,
        ["", "a", "0", "a.b-c", "a" * 253],
        {"*": "is '*': ", "A": "is 'A': ", "a/b": "is 'a/b': ", "a\n": "is 'a\\n': ", "!" * 254: "", **SERVICE_ACCOUNT},
    ),
    Rule(
        lambda request_id: _issue(request_id=request_id),
        "request_id",
        "must be a UUID: 6f1c9a52-8b4e-4d0a-9c3e-2f7d5b1a0e48",
        ["", "6f1c9a52-8b4e-4d0a-9c3e-2f7d5b1a0e48", "6F1C9A52-8B4E-4D0A-9C3E-2F7D5B1A0E48"],
        {"1": "is '1': ", "6f1c9a528b4e4d0a9c3e2f7d5b1a0e48": "is '6f1c9a528b4e4d0a9c3e2f7d5b1a0e48': "},
    ),
    _lifetime(lambda ttl: _issue(ttl=ttl), "ttl"),
    _lifetime(lambda ttl: _issue(min_ttl=ttl), "min_ttl"),
    *_audiences(
        lambda items: _issue(audiences=items), "audiences", "must be at most 20 audiences, each of them once", least=0
    ),
    Rule(
        lambda id_: _issue(request_id=id_),
        "request_id",
        "must be a UUID: 6f1c9a52-8b4e-4d0a-9c3e-2f7d5b1a0e48",
        ["", "6f1c9a52-8b4e-4d0a-9c3e-2f7d5b1a0e48", "6F1C9A52-8B4E-4D0A-9C3E-2F7D5B1A0E48"],
        {"7": "is '7': ", "6f1c9a528b4e4d0a9c3e2f7d5b1a0e48": "is '6f1c9a528b4e4d0a9c3e2f7d5b1a0e48': ", "x" * 99: ""},
    ),
]


def _streamed(rule: Rule) -> Rule:
    """The same rule of what a stream issues."""
    return replace(
        rule,
        request=lambda value: iss.StreamTokensRequest(issue=cast("iss.IssueTokenRequest", rule.request(value))),
        field=f"issue.{rule.field}",
    )


STREAM_RULES = [
    Rule(
        lambda issue: iss.StreamTokensRequest(issue=issue),
        "issue",
        "must be given: what each token is to be, with its role",
        [_issue()],
        [None],
    ),
    *map(_streamed, ISSUE_RULES),
]


def _labels(request: Callable[[dict[str, str]], Message], field: str) -> list[Rule]:
    """Labels for policies."""
    told = "must have a key of 1 to 63 characters, such as team"
    return [
        Rule(
            lambda count: request({str(number): "" for number in range(count)}),
            field,
            "must be at most 64 labels",
            [0, 64],
            [65],
        ),
        Rule(lambda key: request({key: "x"}), f"{field}[]", told, ["a", "ä b", "k" * 63], [""]),
        Rule(lambda key: request({key: "x"}), f"{field}[{'k' * 64}]", told, ["k"], ["k" * 64]),
        _longest(lambda value: request({"team": value}), f"{field}[team]", 253),
    ]


def _made_roles() -> list[Rule]:
    """What a role must keep that makes credentials, that selects namespaces, or whose leases can be ended."""
    field, kinds = "role.allowed_namespace_selector", [-1, 3]
    kind_words = "must be KUBERNETES_ROLE_KIND_ROLE or KUBERNETES_ROLE_KIND_CLUSTER_ROLE"
    name_words = "must be the name of a Role or ClusterRole, 1 to 253 characters without / and %: view"
    rules_words = (
        "must be rules as in a Role's manifest, in YAML or JSON, at most 65536 characters: "
        '[{apiGroups: [""], resources: [pods], verbs: [get, list]}]'
    )
    return [
        Rule(
            lambda count: _selecting(match_labels={str(number): "" for number in range(count)}),
            f"{field}.match_labels",
            "must be at most 32 labels",
            [0, 32],
            [33],
        ),
        Rule(
            lambda count: _selecting(match_expressions=[_requirement()] * count),
            f"{field}.match_expressions",
            "must be at most 32 requirements",
            [0, 32],
            [33],
        ),
        Rule(
            lambda operator: _selecting(match_expressions=[_requirement(operator=operator)]),
            f"{field}.match_expressions[0].operator",
            "must be OPERATOR_IN, OPERATOR_NOT_IN, OPERATOR_EXISTS or OPERATOR_DOES_NOT_EXIST",
            [1, 2, 3, 4],
            [0, -1, 5],
        ),
        Rule(
            lambda count: _selecting(match_expressions=[_requirement(values=["a"] * count)]),
            f"{field}.match_expressions[0].values",
            "must be at most 100 values",
            [0, 100],
            [101],
        ),
        Rule(
            lambda revocation: _role(revocation=revocation),
            "role.revocation",
            "must be REVOCATION_NONE, REVOCATION_PER_LEASE, REVOCATION_PER_CALLER or REVOCATION_PER_ROLE, or left out",
            [0, 1, 2, 3, 4],
            [-1, 5],
        ),
        Rule(
            lambda kind: _role(kubernetes_role=rs.KubernetesRole(kind=kind, name="view")),
            "role.kubernetes_role.kind",
            kind_words,
            [0, 1, 2],
            kinds,
        ),
        Rule(
            lambda name: _role(kubernetes_role=rs.KubernetesRole(name=name)),
            "role.kubernetes_role.name",
            name_words,
            ["view", "system:node", "a" * 253],
            {"": "is empty: ", "a/b": "is 'a/b': ", "a%": "is 'a%': ", "a" * 254: ""},
        ),
        Rule(
            lambda kind: _role(generated_role=rs.GeneratedRole(kind=kind, rules="[]")),
            "role.generated_role.kind",
            kind_words,
            [0, 1, 2],
            kinds,
        ),
        Rule(
            lambda rules: _role(generated_role=rs.GeneratedRole(rules=rules)),
            "role.generated_role.rules",
            rules_words,
            ["[]", "x" * 65536],
            {"": "is empty: ", "x" * 65537: ""},
        ),
        _longest(lambda template: _role(name_template=template), "role.name_template", 100),
        Rule(
            lambda count: _role(extra_labels={str(number): "" for number in range(count)}),
            "role.extra_labels",
            "must be at most 32 labels",
            [0, 32],
            [33],
        ),
        Rule(
            lambda count: _role(extra_annotations={str(number): "" for number in range(count)}),
            "role.extra_annotations",
            "must be at most 32 annotations",
            [0, 32],
            [33],
        ),
        _longest(lambda value: _role(extra_annotations={"a": value}), "role.extra_annotations[a]", 4096),
    ]


ROLE_RULES = [
    _named(lambda name: rs.GetRoleRequest(name=name), "name", A_ROLE, "roles", empty="is empty: "),
    *_pages(rs.ListRolesRequest),
    _id(lambda role_id: rs.CreateRoleRequest(role_id=role_id, role=_role().role), "role_id"),
    Rule(
        lambda role: rs.CreateRoleRequest(role_id="ci", role=role),
        "role",
        "must be given: the role to make, which says what it allows",
        [_role().role],
        [None],
    ),
    _named(lambda name: _role(name=name), "role.name", A_ROLE, "roles"),
    _named(lambda name: _role(config=name), "role.config", A_CONFIG, "configs"),
    *_allowed(
        lambda items: _role(allowed_namespaces=items), "role.allowed_namespaces", "namespaces", A_NAMESPACE, NAMESPACE
    ),
    *_allowed(
        lambda items: _role(allowed_service_accounts=items),
        "role.allowed_service_accounts",
        "ServiceAccounts",
        A_SERVICE_ACCOUNT,
        SERVICE_ACCOUNT,
    ),
    *_audiences(
        lambda items: _role(allowed_audiences=items),
        "role.allowed_audiences",
        f"must be 1 to 20 audiences, each of them once: {NOTHING}",
        least=1,
    ),
    *_audiences(
        lambda items: _role(default_audiences=items),
        "role.default_audiences",
        "must be at most 20 audiences, each of them once",
        least=0,
    ),
    _lifetime(lambda ttl: _role(ttl=ttl), "role.ttl"),
    _lifetime(lambda ttl: _role(max_ttl=ttl), "role.max_ttl"),
    *_labels(lambda labels: _role(labels=labels), "role.labels"),
    _longest(lambda etag: _role(etag=etag), "role.etag", 64),
    *_made_roles(),
    _named(lambda name: rs.DeleteRoleRequest(name=name), "name", A_ROLE, "roles", empty="is empty: "),
    _longest(lambda etag: rs.DeleteRoleRequest(name="roles/ci", etag=etag), "etag", 64),
]


def _filters(request: Callable[..., Message]) -> list[Rule]:
    """What every filter of leases must keep, in the request that brings it."""

    def asking(**fields: Any) -> Message:
        return request(filter=ls.LeaseFilter(**fields))

    return [
        _named(lambda name: asking(role=name), "filter.role", A_ROLE, "roles"),
        _named(lambda name: asking(config=name), "filter.config", A_CONFIG, "configs"),
        _longest(lambda name: asking(namespace=name), "filter.namespace", 63),
        _longest(lambda name: asking(service_account=name), "filter.service_account", 253),
        _longest(lambda name: asking(caller=name), "filter.caller", 2048),
        Rule(
            lambda state: asking(state=state),
            "filter.state",
            "must be one of Lease.State, as STATE_ACTIVE, or left out for leases in any state",
            ls.Lease.State.values(),
            [-1, 7, 9],
        ),
    ]


LEASE_RULES = [
    Rule(
        lambda name: ls.GetLeaseRequest(name=name),
        "name",
        A_LEASE,
        ["leases/" + "a0" * 13],
        {
            "": "is empty: ",
            "a0" * 13: f"is '{'a0' * 13}': ",
            "leases/a": "is 'leases/a': ",
            "leases/" + "A0" * 13: f"is 'leases/{'A0' * 13}': ",
            "leases/" + "a0" * 40: "",
        },
    ),
    *_pages(ls.ListLeasesRequest),
    *_filters(ls.ListLeasesRequest),
    *_filters(ls.WatchLeasesRequest),
    Rule(
        lambda name: ls.RevokeLeaseRequest(name=name),
        "name",
        A_LEASE,
        ["leases/" + "a0" * 13],
        {"": "is empty: ", "leases/a": "is 'leases/a': "},
    ),
    *_filters(ls.RevokeLeasesRequest),
]


def _file(request: Callable[[str], Message], field: str) -> Rule:
    """A file of a credential: what was given in its place is not told, for it may be the credential itself."""
    bad = ["", "/", "token", "../token", "/a\0b", "/" + "a" * 1024]
    return Rule(request, field, A_FILE, ["/a", "/a b/ä", "/" + "a" * 1023], bad)


def _in_config(request: Callable[[cs.Config], Message]) -> list[Rule]:
    """What every config must keep, in the request that brings it."""
    return [
        _named(lambda name: request(cs.Config(name=name)), "config.name", A_CONFIG, "configs"),
        _longest(lambda host: request(cs.Config(kubernetes_host=host)), "config.kubernetes_host", 512),
        _longest(lambda pem: request(cs.Config(kubernetes_ca_cert=pem)), "config.kubernetes_ca_cert", 65536),
        _longest(lambda token: request(cs.Config(service_account_jwt=token)), "config.service_account_jwt", 16384),
        _longest(lambda etag: request(cs.Config(etag=etag)), "config.etag", 64),
        *_labels(lambda labels: request(cs.Config(labels=labels)), "config.labels"),
        _file(lambda path: request(cs.Config(token_file=path)), "config.token_file"),
        _file(lambda path: request(_files(certificate_file=path)), "config.client_certificate_files.certificate_file"),
        _file(lambda path: request(_files(private_key_file=path)), "config.client_certificate_files.private_key_file"),
        Rule(
            lambda pem: request(cs.Config(client_certificate=cs.ClientCertificate(certificate=pem))),
            "config.client_certificate.certificate",
            "must be a certificate as PEM, at most 65536 characters",
            ["x", "x" * 65536],
            ["", "x" * 65537],
        ),
        _longest(
            lambda pem: request(cs.Config(client_certificate=cs.ClientCertificate(certificate="x", private_key=pem))),
            "config.client_certificate.private_key",
            16384,
        ),
    ]


def _files(**paths: str) -> cs.Config:
    files = {"certificate_file": "/tls.crt", "private_key_file": "/tls.key", **paths}
    return cs.Config(client_certificate_files=cs.ClientCertificateFiles(**files))


CONFIG_RULES = [
    _named(lambda name: cs.GetConfigRequest(name=name), "name", A_CONFIG, "configs", empty="is empty: "),
    *_pages(cs.ListConfigsRequest),
    _id(lambda config_id: cs.CreateConfigRequest(config_id=config_id, config=cs.Config()), "config_id"),
    Rule(
        lambda config: cs.CreateConfigRequest(config_id="prod", config=config),
        "config",
        "must be given: the config to make",
        [cs.Config()],
        [None],
    ),
    *_in_config(lambda config: cs.CreateConfigRequest(config_id="prod", config=config)),
    Rule(
        lambda config: cs.UpdateConfigRequest(config=config),
        "config",
        "must be given: the config to change, with its name and its new values",
        [cs.Config()],
        [None],
    ),
    *_in_config(lambda config: cs.UpdateConfigRequest(config=config)),
    _named(lambda name: cs.DeleteConfigRequest(name=name), "name", A_CONFIG, "configs", empty="is empty: "),
    _longest(lambda etag: cs.DeleteConfigRequest(name="configs/prod", etag=etag), "etag", 64),
    _named(lambda name: cs.CheckConfigRequest(name=name), "name", A_CONFIG, "configs", empty="is empty: "),
]

RULES = [*CONFIG_RULES, *ISSUE_RULES, *STREAM_RULES, *ROLE_RULES, *LEASE_RULES]


def _violations(message: Message, prefix: str = "") -> list[Violation]:
    try:
        check_rules(message, prefix)
    except InvalidArgument as refusal:
        return list(refusal.violations)
    return []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.field)
def test_what_keeps_a_rule_passes(rule: Rule) -> None:
    """A value that keeps the rule passes."""
    for value in rule.good:
        assert _violations(rule.request(value)) == [], value


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.field)
def test_what_breaks_a_rule_is_told_in_full(rule: Rule) -> None:
    """A value that breaks the rule is refused in one sentence: the field's path, what was given where it is short, and
    what the field must be.
    """
    for value in rule.bad:
        assert _violations(rule.request(value)) == rule.violations(value), value


def _ruled(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """The paths of all fields that have rules, with [] for items."""
    for field in message.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if rules.ignore == validate_pb2.IGNORE_ALWAYS:
            continue
        if rules.required or rules.WhichOneof("type"):
            yield prefix + field.name
        if rules.repeated.HasField("items") or rules.map.HasField("keys") or rules.map.HasField("values"):
            yield f"{prefix}{field.name}[]"
        if field.message_type is not None and field.message_type.file.package == "kubevend.v1":
            items = "[]" if field.is_repeated else ""
            yield from _ruled(field.message_type, f"{prefix}{field.name}{items}.")


@pytest.mark.parametrize("module", SERVICES, ids=lambda module: module.DESCRIPTOR.name)
def test_every_rule_is_tried(module: Any) -> None:
    """Each field that has a rule has a row above."""
    tried = {
        (rule.request(next(iter(rule.bad))).DESCRIPTOR.name, re.sub(r"\[.*\]", "[]", rule.field)) for rule in RULES
    }
    requests = [request for request in REQUESTS if request.file == module.DESCRIPTOR]
    assert requests
    missing = [(r.name, path) for r in requests for path in _ruled(r) if (r.name, path) not in tried]
    assert missing == []


def _any(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values for a field, of which most break its rule."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return st.dictionaries(_any_one(key), _any_one(value), max_size=3)
    return st.lists(_any_one(field), max_size=3) if field.is_repeated else _any_one(field)


def _any_one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _any_message(field.message_type)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(st.sampled_from(["", "*", "roles/ci"]), st.text(max_size=20), st.just("x" * 600))
    return st.integers(-(2**31), 2**31 - 1)


def _any_message(message: Descriptor) -> st.SearchStrategy[Message]:
    # Of a oneof the last one is set that was drawn, as on the wire.
    fields = {field.name: _any(field) for field in message.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: GetMessageClass(message)(**values))


@given(st.one_of([_any_message(request) for request in REQUESTS]))
def test_no_message_needs_an_expert(message: Message) -> None:
    """Whatever is wrong is said as what was given and what it must be, without regular expressions."""
    for violation in _violations(message):
        assert re.fullmatch(r"(is empty: |is '.*': |is \".*\": )?must .*", violation.description), violation
        assert not re.search("regex|pattern|expression", violation.description), violation


@pytest.mark.parametrize("nanos", [1, 500_000_000, 999_999_999])
def test_a_lifetime_has_no_fraction_of_a_second(nanos: int) -> None:
    """A fraction passes the rules of fields, which cannot say it, and is refused in the same way where the lifetime is
    read.
    """
    request = _role(ttl=Duration(seconds=600, nanos=nanos))
    assert _violations(request) == []
    with pytest.raises(InvalidArgument) as refusal:
        convert.duration(request.role, "ttl", "role.ttl")
    description = "must be whole seconds, in which Kubernetes counts lifetimes: 3600s"
    assert (refusal.value.reason, refusal.value.message) == ("FIELD_INVALID", f"role.ttl {description}.")
    assert refusal.value.violations == (Violation("role.ttl", description),)


def test_a_prefix_goes_before_every_path() -> None:
    """A message that is checked as part of a request has its fields named from the request."""
    found = _violations(rs.Role(**{**SOUND, "allowed_audiences": []}), "role.")
    assert [violation.field for violation in found] == ["role.allowed_audiences"]


def test_several_faults_are_told_at_once() -> None:
    """The faults of a small request are told together, in the order of its fields, and each of them once."""
    with pytest.raises(InvalidArgument) as refusal:
        check_rules(_issue(role="ci", service_account_name="!" * 254, audiences=["a"] * 21))
    told = [
        Violation("role", f"is 'ci': {A_ROLE}"),
        Violation("service_account_name", A_SERVICE_ACCOUNT),
        Violation("audiences", "must be at most 20 audiences, each of them once"),
    ]
    assert (refusal.value.reason, refusal.value.violations) == ("FIELD_INVALID", tuple(told))
    assert refusal.value.message == (
        f"The request breaks rules of its fields: role is 'ci': {A_ROLE}; service_account_name {A_SERVICE_ACCOUNT}; "
        "audiences must be at most 20 audiences, each of them once."
    )


def test_a_secret_is_never_told() -> None:
    """What was given for a credential is not in the refusal, and neither is what was given for another one in its
    place, which may be the secret under the wrong name.
    """
    for secret in ("s3cret\0", "s3cret" * 5000):
        for config in (
            cs.Config(service_account_jwt=secret),
            cs.Config(token_file=secret),
            cs.Config(client_certificate=cs.ClientCertificate(certificate="x", private_key=secret)),
            _files(certificate_file=secret),
            _files(private_key_file=secret),
        ):
            told = _violations(cs.CreateConfigRequest(config_id="prod", config=config))
            assert told or secret == "s3cret\0"
            assert "s3cret" not in str(told), config


def test_the_longest_refusal_fits_into_an_error() -> None:
    """A refusal of everything in a request fits into the 8 KiB that gRPC clients take, details and message."""
    names = ["!" * 60 + str(number) for number in range(40)]
    with pytest.raises(InvalidArgument) as refusal:
        check_rules(_role(allowed_service_accounts=names, labels={"k" * 200 + str(n): "" for n in range(10)}))
    status = to_status(refusal.value, "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c")
    assert len(base64.b64encode(status.SerializeToString())) + len(status.message) < 8192
