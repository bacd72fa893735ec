from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kubevend_server.config_rules import ConfigRules, normalized
from kubevend_server.configs import Config, Credential
from kubevend_server.errors import InvalidArgument, Violation
from tests.unit.builders import SECRET, ca_certificate, client_certificate, config

HOST, OWN = "https://10.0.0.1:6443", "https://10.96.0.1:443"
RULES = ConfigRules(own_host="", credential_folders={})
IN_POD = ConfigRules(own_host=OWN, credential_folders={})


def _faults(rules: ConfigRules, of: Config) -> list[str]:
    refused: InvalidArgument | None = None
    try:
        rules.check(of)
    except InvalidArgument as refusal:
        refused = refusal
    if refused is None:
        return []
    assert (refused.reason, refused.metadata) == ("CONFIG_INVALID", {"config": of.name})
    assert SECRET not in refused.message
    return [fault.field for fault in refused.violations]


@pytest.mark.parametrize(
    "host",
    [
        "https://10.0.0.1:6443",
        "https://api.example.com",
        "https://[2001:db8::1]:6443",
        "https://a-b.c1",
        "https://0x7f.example.com",
        "https://1.example",
    ],
)
def test_an_https_host_is_accepted(host: str) -> None:
    """A host is an https URL of a name or an address, with or without a port."""
    assert _faults(RULES, config(kubernetes_host=host)) == []


@pytest.mark.parametrize(
    "host",
    [
        "",
        "10.0.0.1:6443",
        "http://10.0.0.1:6443",
        "ftp://api",
        "https://",
        "https://:6443",
        "https:///path",
        "https:api",
        "https://api/",
        "https://api/path",
        "https://api?query=1",
        "https://api#fragment",
        "https://user@api",
        "https://user:password@api",
        "https://api:0",
        "https://api:99999",
        "https://api:port",
        "https://[::1",
        "https://api\n.evil.com",
        "https://api\t",
        "https://api\x00",
        "https://api\\@evil.com",
        "javascript://api",
    ],
)
def test_anything_else_is_refused(host: str) -> None:
    """A host without https, with a path, a query, a user or a port that is none, is refused by its field."""
    assert _faults(RULES, config(kubernetes_host=host)) == ["config.kubernetes_host"]


@pytest.mark.parametrize(
    "host",
    ["https://api?", "https://api#", "https://@api", "https://:@api", "https://a b", " https://api", "https://api "],
)
def test_a_host_alone_means_alone(host: str) -> None:
    """An empty query or fragment would swallow the path of every request, and a blank is in no name."""
    assert _faults(RULES, config(kubernetes_host=host)) == ["config.kubernetes_host"]


@pytest.mark.parametrize("host", ["https://" + "a" * 64 + ".com", "https://a..b"])
def test_a_host_that_no_resolver_takes_is_refused(host: str) -> None:
    """A name with a label that is empty or longer than 63 characters makes the resolver fail with an error of its
    own (UnicodeError), so it never gets there.
    """
    assert _faults(RULES, config(kubernetes_host=host)) == ["config.kubernetes_host"]


@pytest.mark.parametrize(
    "host",
    [
        "https://[.]",
        "https://[:]",
        "https://[::1::]",
        "https://[1.2.3.4]",
        "https://[2001:db8::1%eth0]",
        "https://2130706433:1",
        "https://127.1",
        "https://10.0.0.256",
        "https://010.0.0.1",
        "https://1.2.3.4.5",
        "https://0x7f000001",
        "https://127.0.0.0x1",
        "https://api.0x",
        "https://api.1",
    ],
)
def test_an_address_is_written_as_one(host: str) -> None:
    """What a resolver takes for an address, and is none in four decimal numbers or in IPv6, is refused."""
    assert _faults(RULES, config(kubernetes_host=host)) == ["config.kubernetes_host"]


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("https://API.Example.com", "https://api.example.com"),
        ("https://api:443", "https://api"),
        ("https://api:0443", "https://api"),
        ("https://api:06443", "https://api:6443"),
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://[2001:DB8:0:0::0001]:443", "https://[2001:db8::1]"),
        ("https://[::ffff:10.0.0.1]:6443", "https://10.0.0.1:6443"),
        ("https://[::ffff:a00:1]", "https://10.0.0.1"),
        ("", ""),
        ("HTTPS://API", "HTTPS://API"),
        ("https://API/", "https://API/"),
        ("https://2130706433", "https://2130706433"),
    ],
)
def test_a_host_has_one_form(host: str, form: str) -> None:
    """However a host is written, there is one form of it, which stays as it is; what is no host is left alone."""
    assert (normalized(host), normalized(form)) == (form, form)


IN_CLUSTER = Credential("in_cluster")


@pytest.mark.parametrize("host", ["", normalized(OWN)])
def test_the_pods_own_credential_goes_to_the_pods_own_cluster(host: str) -> None:
    """In a pod the in-cluster credential needs no host, and takes the own one."""
    assert _faults(IN_POD, config(kubernetes_host=host, credential=IN_CLUSTER)) == []


@pytest.mark.parametrize(
    "host",
    ["https://evil.com", OWN + "/", OWN.upper(), "https://10.96.0.1:6443", OWN + "0", "https://10.96.0.1:443@evil.com"],
)
def test_the_pods_own_credential_goes_nowhere_else(host: str) -> None:
    """With any other host, however alike, the in-cluster credential is refused."""
    assert _faults(IN_POD, config(kubernetes_host=host, credential=IN_CLUSTER)) == ["config.kubernetes_host"]


@pytest.mark.parametrize("host", ["", OWN])
def test_outside_of_a_pod_there_is_no_own_credential(host: str) -> None:
    """Where kubevend does not run in a pod, the in-cluster credential is refused for any host."""
    assert _faults(RULES, config(kubernetes_host=host, credential=IN_CLUSTER)) == ["config.kubernetes_host"]


def test_a_stored_token_must_be_one() -> None:
    """A service_account_jwt that is empty is refused."""
    assert _faults(RULES, config(credential=Credential("service_account_jwt"))) == ["config.service_account_jwt"]


@pytest.mark.parametrize("token", [SECRET + "\n", "a\nb", "a\x00b", "a b", "ключ"])
def test_a_stored_token_can_stand_in_a_header(token: str) -> None:
    """A token with a line's end, as `base64 -d` and echo leave it, is refused here: no HTTP client would send it."""
    credential = Credential("service_account_jwt", service_account_jwt=token)
    assert _faults(RULES, config(credential=credential)) == ["config.service_account_jwt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the settings allow, with a token in it, beside one that they do not."""
    allowed, other = tmp_path / "tokens", tmp_path / "tokens-of-others"
    allowed.mkdir()
    other.mkdir()
    (allowed / "token").write_text("t")
    (other / "token").write_text("t")
    (allowed / "link-inside").symlink_to(allowed / "token")
    (allowed / "link-outside").symlink_to(other / "token")
    (allowed / "folder-outside").symlink_to(other)
    return allowed


def _token_file_faults(folder: Path, path: str) -> list[str]:
    rules = ConfigRules("", {str(folder): ("*",)})
    return _faults(rules, config(credential=Credential("token_file", token_file=path)))


@pytest.mark.parametrize("path", ["token", "link-inside", "./token", "not-there-yet", "../tokens/token"])
def test_a_token_file_in_an_allowed_folder_is_accepted(folder: Path, path: str) -> None:
    """A path that ends in an allowed folder is accepted, whatever it goes through."""
    assert _token_file_faults(folder, f"{folder}/{path}") == []


@pytest.mark.parametrize(
    "path", ["../tokens-of-others/token", "../../etc/passwd", "link-outside", "folder-outside/token", "../tokens-x"]
)
def test_a_token_file_elsewhere_is_refused(folder: Path, path: str) -> None:
    """Neither `..` nor a symbolic link nor a like-named folder leads out of the allowed folders."""
    assert _token_file_faults(folder, f"{folder}/{path}") == ["config.token_file"]


def test_a_symbolic_link_to_an_allowed_folder_counts(folder: Path) -> None:
    """A folder that the settings name through a symbolic link is the folder behind it."""
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert _token_file_faults(link, f"{folder}/token") == []


def _file_faults(folders: Mapping[str, Sequence[str]], path: str, host: str = HOST) -> list[Violation]:
    of = config(kubernetes_host=host, credential=Credential("token_file", token_file=path))
    return list(ConfigRules("", folders).files(of))


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (("*",), HOST, True),
        ((HOST,), HOST, True),
        (("https://other", HOST), HOST, True),
        (("https://API.example.com",), "https://api.example.com", True),
        (("https://api.example.com:443",), "https://api.example.com", True),
        (("https://api.example.com",), "https://api.example.com:443", True),
        ((), HOST, False),
        (("https://other",), HOST, False),
        ((HOST,), HOST + "0", False),
        ((HOST,), "https://10.0.0.1", False),
        (("https://example.com",), "https://api.example.com", False),
        (("https://api.example.com",), "https://api.example.com.evil.com", False),
    ],
)
def test_a_credential_goes_to_the_hosts_of_its_folder(
    folder: Path, hosts: tuple[str, ...], host: str, allowed: bool
) -> None:
    """What is in a folder may be shown to the hosts that the settings name for it, and to no other, however alike."""
    path = str(folder / "token")
    told = f"{path!r} may not be shown to {host}: the server's settings let what is in {folder} go to "
    fault = Violation("config.token_file", f"{told}{', '.join(sorted(hosts)) or 'no host'} only")
    assert _file_faults({str(folder): hosts}, path, host) == ([] if allowed else [fault])


def test_the_deepest_folder_decides(folder: Path) -> None:
    """A file in a folder within another goes where the inner one lets it go, whatever the outer one says, and a file
    beside the inner one where the outer one does.
    """
    inner, outer = str(folder / "token"), str(folder.parent / "token")
    for hosts in (("*",), ("https://outer",)):
        for folders in (
            {str(folder.parent): hosts, str(folder): ("https://inner",)},
            {str(folder): ("https://inner",), str(folder.parent): hosts},
        ):
            assert _file_faults(folders, inner, "https://inner") == []
            assert _file_faults(folders, outer, "https://outer") == []
            told = f"{inner!r} may not be shown to https://outer: the server's settings let what is in {folder} go to "
            fault = Violation("config.token_file", f"{told}https://inner only")
            assert _file_faults(folders, inner, "https://outer") == [fault]
    assert len(_file_faults({str(folder.parent): ("*",), str(folder): ()}, inner, "https://outer")) == 1


def test_two_names_of_a_folder_must_both_allow(folder: Path) -> None:
    """A folder that the settings name twice, once through a link, is as narrow as both together."""
    (folder.parent / "link").symlink_to(folder)
    folders = {str(folder.parent / "link"): ("*",), str(folder): ("https://inner",)}
    assert _file_faults(folders, str(folder / "token"), "https://inner") == []
    assert len(_file_faults(folders, str(folder / "token"), "https://outer")) == 1


def test_both_files_of_a_pair_are_held_to_the_folders(folder: Path) -> None:
    """A certificate's file and its key's are each refused by their field, and accepted in an allowed folder."""
    rules = ConfigRules("", {str(folder): ("*",)})

    def pair(certificate: str, key: str) -> Config:
        credential = Credential("client_certificate_files", certificate_file=certificate, private_key_file=key)
        return config(credential=credential)

    inside, outside = str(folder / "tls.crt"), "/etc/ssl/private/key"
    fields = ["config.client_certificate_files.certificate_file", "config.client_certificate_files.private_key_file"]
    assert _faults(rules, pair(inside, inside)) == []
    assert _faults(rules, pair(outside, inside)) == fields[:1]
    assert _faults(rules, pair(inside, outside)) == fields[1:]
    assert _faults(rules, pair(outside, outside)) == fields


def test_a_client_certificate_is_a_pair() -> None:
    """A certificate with its own key is accepted, with another one refused by its field, and no message shows a key."""
    pair, other = client_certificate(), client_certificate()
    assert _faults(RULES, config(credential=pair.credential)) == []
    mixed = replace(pair, private_key=other.private_key)
    assert _faults(RULES, config(credential=mixed.credential)) == ["config.client_certificate"]
    secret = config(credential=replace(pair, private_key=SECRET).credential)
    assert _faults(RULES, secret) == ["config.client_certificate"]


def test_without_folders_no_token_file_is_allowed(folder: Path) -> None:
    """Empty means none."""
    credential = Credential("token_file", token_file=str(folder / "token"))
    assert _faults(RULES, config(credential=credential)) == ["config.token_file"]


def test_a_ca_is_pem() -> None:
    """One certificate or several are accepted, anything else is refused."""
    assert _faults(RULES, config(kubernetes_ca_cert=ca_certificate() + ca_certificate())) == []
    for ca in ("no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        assert _faults(RULES, config(kubernetes_ca_cert=ca)) == ["config.kubernetes_ca_cert"]


def test_every_fault_is_named_at_once() -> None:
    """A config with several faults is refused with all of them."""
    broken = config(
        kubernetes_host="http://x", kubernetes_ca_cert="x", credential=Credential("token_file", token_file="/etc/x")
    )
    assert _faults(RULES, broken) == ["config.kubernetes_host", "config.token_file", "config.kubernetes_ca_cert"]
