from __future__ import annotations

from pathlib import Path

import pytest

from kubevend_server.settings import (
    AuditSettings,
    CallerClusterSettings,
    CallersSettings,
    IssuanceSettings,
    KubernetesSettings,
    ListenerSettings,
    MetricsSettings,
    PolicySettings,
    Settings,
    SettingsError,
    StoreSettings,
    TrustDomainSettings,
    load,
    parse,
)

MINIMAL = """
[listener]
certificate_file = "/tls/tls.crt"
private_key_file = "/tls/tls.key"
[store]
url = "sqlite:////data/kubevend.sqlite"
key_file = "/data/store.key"
[audit]
file = "/data/audit.jsonl"
key_file = "/data/audit.key"
[callers]
admin_token_file = "/data/admin.token"
[policy]
folder = "/policies"
"""


def _parse(*changes: tuple[str, str], more: str = "") -> Settings:
    text = MINIMAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text + more)


def _refusal(*changes: tuple[str, str], more: str = "") -> str:
    with pytest.raises(SettingsError) as refusal:
        _parse(*changes, more=more)
    return str(refusal.value)


def test_the_least_settings_bring_the_defaults() -> None:
    """What is not named has its default."""
    assert _parse() == Settings(
        listener=ListenerSettings(
            address="0.0.0.0:7443",
            certificate_file="/tls/tls.crt",
            private_key_file="/tls/tls.key",
            insecure_loopback=False,
        ),
        store=StoreSettings(url="sqlite:////data/kubevend.sqlite", key_file="/data/store.key"),
        audit=AuditSettings(file="/data/audit.jsonl", key_file="/data/audit.key"),
        callers=CallersSettings(
            admin_token_file="/data/admin.token", audience="kubevend", remember_seconds=10.0, clusters={}
        ),
        policy=PolicySettings(folder="/policies"),
        issuance=IssuanceSettings(default_ttl_seconds=3600, max_ttl_seconds=86400),
        kubernetes=KubernetesSettings(
            credential_folders={},
            service_account_folder="/var/run/secrets/kubernetes.io/serviceaccount",
            connect_timeout_seconds=5.0,
            request_timeout_seconds=15.0,
            max_connections=100,
            trust_env=False,
        ),
        metrics=MetricsSettings(address="127.0.0.1:9443"),
        drain_seconds=10.0,
        log_level="info",
    )


def test_clusters_are_nested_tables() -> None:
    """Each cluster whose ServiceAccounts may call is a table under its name."""
    more = """
    [callers.clusters.prod]
    kubernetes_host = "https://prod"
    ca_file = "/ca"
    token_file = "/token"
    issuers = ["https://issuer"]
    [callers.clusters.own-1]
    issuers = ["https://own"]
    """
    assert _parse(more=more).callers.clusters == {
        "prod": CallerClusterSettings(
            kubernetes_host="https://prod", ca_file="/ca", token_file="/token", issuers=("https://issuer",)
        ),
        "own-1": CallerClusterSettings(issuers=("https://own",)),
    }


DOMAIN = """
[callers.trust_domains."example.org"]
address = "0.0.0.0:7444"
bundle_file = "/bundles/example.org.pem"
"""


def test_trust_domains_are_nested_tables() -> None:
    """Each trust domain whose workloads may call is a table under its name, which stands in quotes for its dots."""
    more = (
        DOMAIN
        + """
    [callers.trust_domains.partner]
    address = "0.0.0.0:7445"
    bundle_file = "/bundles/partner.pem"
    certificate_file = "/partner.crt"
    private_key_file = "/partner.key"
    """
    )
    assert _parse(more=more).callers.trust_domains == {
        "example.org": TrustDomainSettings(address="0.0.0.0:7444", bundle_file="/bundles/example.org.pem"),
        "partner": TrustDomainSettings(
            address="0.0.0.0:7445",
            bundle_file="/bundles/partner.pem",
            certificate_file="/partner.crt",
            private_key_file="/partner.key",
        ),
    }


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"example.org"', '"Example.org"', "its trust domain has other characters"),
        ('"example.org"', '"example.org/a"', "its trust domain has other characters"),
        ('"example.org"', '"spiffe://example.org"', "its trust domain has spiffe:// before it: leave that out"),
        ('"example.org"', '""', "its trust domain is empty"),
        ('"example.org"', "example.org", "example.org is not a setting; a name with dots in it stands in quotes"),
        ("0.0.0.0:7444", "0.0.0.0:7443", "is 0.0.0.0:7443, which listener has already"),
        ("0.0.0.0:7444", "127.0.0.1:9443", "is 127.0.0.1:9443, which metrics has already"),
        ("0.0.0.0:7444", "7444", "it must be host:port"),
        ("0.0.0.0:7444", "", "it must be host:port"),
        ("/bundles/example.org.pem", "", "needs a bundle_file"),
        ('address = "0.0.0.0:7444"', "", "`address`"),
        ("bundle_file", 'certificate_file = "/x"\nbundle_file', "give both"),
        ("bundle_file", "bundle_fiel", "did you mean callers.trust_domains.example.org.bundle_file?"),
    ],
)
def test_trust_domains_that_cannot_be(old: str, new: str, told: str) -> None:
    """A name that the specification does not allow, an address that is taken, and what is missing stop the start."""
    assert told in _refusal(more=DOMAIN.replace(old, new, 1))


def test_two_trust_domains_have_two_listeners() -> None:
    """Two trust domains on one address are refused, and one beside plain text needs a certificate of its own."""
    assert "which callers.trust_domains" in _refusal(more=DOMAIN + DOMAIN.replace("example.org", "partner"))
    plain = ('certificate_file = "/tls/tls.crt"', 'address = "127.0.0.1:7443"\ninsecure_loopback = true')
    assert "always speaks TLS" in _refusal(plain, ('private_key_file = "/tls/tls.key"', ""), more=DOMAIN)


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        (("certificate_file", "certificat_file"), "", "listener.certificat_file is not a setting; did you mean "),
        (("[listener]", "[listner]"), "", "listner is not a setting; did you mean listener?"),
        (("[store]", "[store]\nzzz = 1"), "", "store.zzz is not a setting; known here: url, key_file."),
        (
            ("[store]", "[store]"),
            '[callers.clusters.prod]\nkubernetes_hots = "https://x"',
            "callers.clusters.prod.kubernetes_hots is not a setting; did you mean callers.clusters.prod.kubernetes_ho",
        ),
        (
            ("[store]", "[store]"),
            "[issuance]\nmax_ttl = 3600",
            "issuance.max_ttl is not a setting; did you mean issuance.max_ttl_seconds?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(change: tuple[str, str], more: str, told: str) -> None:
    """A key that is not known stops the start, with its path and the nearest one that is."""
    assert _refusal(change, more=more).startswith(told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('url = "sqlite:////data/kubevend.sqlite"', ""), "url"),
        (("[policy]", "[metrics]"), "folder"),
        (('folder = "/policies"', "folder = 3"), "policy.folder"),
        (("[store]", "= store"), "It is not TOML"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named(change: tuple[str, str], told: str) -> None:
    """A required key that is missing, a value of the wrong type, and what is no TOML stop the start."""
    assert told in _refusal(change)


@pytest.mark.parametrize("missing", ["certificate_file", "private_key_file"])
def test_tls_is_required(missing: str) -> None:
    """Without a certificate or its key there is no listener."""
    value = {"certificate_file": "/tls/tls.crt", "private_key_file": "/tls/tls.key"}[missing]
    told = _refusal((f'{missing} = "{value}"', ""))
    assert told == "listener needs certificate_file and private_key_file: kubevend speaks TLS."


def _insecure(address: str) -> tuple[str, str]:
    return ("[listener]", f'[listener]\ninsecure_loopback = true\naddress = "{address}"')


@pytest.mark.parametrize("address", ["127.0.0.1:7443", "localhost:7443", "[::1]:7443", "127.8.9.10:0"])
def test_plain_text_is_for_loopback(address: str) -> None:
    """On a loopback address a server may go without TLS."""
    assert _parse(_insecure(address)).listener.insecure_loopback


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:7443", "10.0.0.1:7443", "[::]:7443", "example.com:7443", "127.0.0.1", "", "127.0.0.1.example.com:7443"],
)
def test_plain_text_is_refused_elsewhere(address: str) -> None:
    """On any other address, and on a name that only begins like one, it may not."""
    assert "is no loopback address" in _refusal(_insecure(address))


@pytest.mark.parametrize("key", ["default_ttl_seconds", "max_ttl_seconds"])
def test_ttls_keep_kubernetes_floor(key: str) -> None:
    """Neither TTL may be less than the 600 s that Kubernetes asks for; exactly 600 is enough."""
    assert _refusal(more=f"[issuance]\n{key} = 599").startswith(f"issuance.{key} is 599;")
    assert getattr(_parse(more=f"[issuance]\n{key} = 600").issuance, key) == 600


def test_a_ttl_beyond_all_time_is_refused() -> None:
    """A TTL that no duration can hold is refused as a setting, not with a traceback."""
    assert "max_ttl_seconds" in _refusal(more="[issuance]\nmax_ttl_seconds = 100000000000000000")


@pytest.mark.parametrize("name", ["Prod", "pro_d", "a.b", "a/b", "", "-", "prød"])
def test_a_clusters_name_is_part_of_a_name(name: str) -> None:
    """A cluster's name goes into its callers' names, so it has lower-case letters, digits and hyphens only."""
    assert "becomes part of the callers' names" in _refusal(more=f'[callers.clusters."{name}"]')


def test_a_cluster_is_called_over_tls() -> None:
    """Callers' tokens are not sent to a cluster in plain text."""
    assert "https" in _refusal(more='[callers.clusters.prod]\nkubernetes_host = "http://prod"\ntoken_file = "/t"')


def test_an_empty_audience_is_refused() -> None:
    """Without an audience of its own kubevend would take a token for anyone."""
    assert _refusal(("[callers]", '[callers]\naudience = ""')).startswith("callers.audience is empty")


def test_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    """An error in a file names the file, and a file that is not there is an error of the same kind."""
    file = tmp_path / "kubevend.toml"
    with pytest.raises(SettingsError, match=r"kubevend\.toml cannot be read"):
        load(file)
    file.write_text("zzz = 1")
    with pytest.raises(SettingsError, match=r"kubevend\.toml: zzz is not a setting"):
        load(file)
    file.write_text(MINIMAL)
    assert load(file) == _parse()


def test_each_of_several_clusters_needs_its_issuers() -> None:
    """Where several clusters' ServiceAccounts may call, none is shown the tokens of another."""
    more = """
    [callers.clusters.one]
    issuers = ["https://one"]
    [callers.clusters.two]
    """
    with pytest.raises(SettingsError, match=r"callers\.clusters\.two needs issuers"):
        _parse(more=more)


def test_the_pods_own_token_stays_at_home() -> None:
    """A caller cluster with a host of its own needs a token file of its own."""
    more = """
    [callers.clusters.prod]
    kubernetes_host = "https://prod"
    """
    with pytest.raises(SettingsError, match="token_file"):
        _parse(more=more)


def test_the_folders_of_credentials_have_hosts() -> None:
    """Each folder has the hosts to which what is in it may go, `*` for any, none for none."""
    more = """
    [kubernetes.credential_folders]
    "/run/a" = ["https://10.0.0.1:6443", "https://api"]
    "/run/b" = ["*"]
    "/run/c" = []
    """
    assert _parse(more=more).kubernetes == KubernetesSettings(
        credential_folders={"/run/a": ("https://10.0.0.1:6443", "https://api"), "/run/b": ("*",), "/run/c": ()}
    )


@pytest.mark.parametrize("folder", ["", "run", "./run", "~/run", "*"])
def test_a_folder_is_an_absolute_path(folder: str) -> None:
    """A folder that depends on where the server was started is refused."""
    told = _refusal(more=f'[kubernetes.credential_folders]\n"{folder}" = ["*"]')
    assert told == f"kubernetes.credential_folders has {folder!r}: it must be an absolute path."


@pytest.mark.parametrize(
    "host", ["", "10.0.0.1", "http://api", "https://api/", "https://*", "https://api:0", "**", "https://user@api"]
)
def test_a_folders_host_is_https(host: str) -> None:
    """A host that is no https URL of a host alone is refused with its folder."""
    told = _refusal(more=f'[kubernetes.credential_folders]\n"/run/a" = ["https://ok", "{host}"]')
    assert told == (
        f"kubernetes.credential_folders lets /run/a go to {host!r}: it must be an https URL of a host alone, "
        'like https://10.0.0.1:6443, or "*" for any.'
    )


@pytest.mark.parametrize(
    "more",
    [
        '[kubernetes]\ncredential_folders = ["/run/a"]',
        '[kubernetes.credential_folders]\n"/run/a" = "*"',
        '[kubernetes.credential_folders]\n"/run/a" = [1]',
        '[kubernetes.credential_folders]\n"/run/a" = true',
    ],
)
def test_folders_of_another_form_are_refused(more: str) -> None:
    """Folders without hosts, or with something else in their place, stop the start."""
    assert "credential_folders" in _refusal(more=more)


def test_the_former_name_of_the_folders_is_refused() -> None:
    """Settings that still name token_folders stop the start, rather than to allow nothing without a word."""
    assert _refusal(more='[kubernetes]\ntoken_folders = ["/run/a"]').startswith(
        "kubernetes.token_folders is not a setting"
    )


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("source_per_second = -1", "limits.source_per_second is -1; it must be more than 0, or 0 for no limit."),
        ("caller_burst = 0", "limits.caller_burst is 0; it must be 1 or more: 0 would let nothing in, ever."),
        ("in_flight = 0", "limits.in_flight is 0; it must be 1 or more."),
        ("issuing_per_cluster = 0", "limits.issuing_per_cluster is 0; it must be 1 or more."),
        ("request_bytes = 100", "limits.request_bytes is 100; it must be 16384 or more."),
        ("metadata_bytes = 100", "limits.metadata_bytes is 100; it must be 8192 or more."),
        ("request_seconds = 0.05", "limits.request_seconds is 0.05; it must be 0.1 or more."),
        ("in_flight = 100", "limits.in_flight_per_source is 500, and limits.in_flight 100: it cannot be more."),
        ("caller_per_secnd = 1", "limits.caller_per_secnd is not a setting; did you mean limits.caller_per_second?"),
    ],
)
def test_limits_that_cannot_be(limit: str, told: str) -> None:
    """A limit that would let nothing in, or none of what is allowed otherwise, stops the start."""
    assert _refusal(("[store]", f"[limits]\n{limit}\n[store]")) == told
