from __future__ import annotations

import json

import pytest

from kubevend_server.settings import OidcIssuerSettings, Settings, SettingsError, parse
from kubevend_server.wiring import make_issuers, make_limits
from tests.unit.builders import clock
from tests.unit.test_settings import MINIMAL

GITHUB = "https://token.actions.githubusercontent.com"


def _parse(*issuers: tuple[str, dict[str, object]], more: str = "") -> Settings:
    tables = [
        "\n".join([f"[callers.issuers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())])
        for name, values in issuers
    ]
    return parse("\n".join([MINIMAL, *tables, more]))


def test_an_issuer_has_defaults() -> None:
    """An issuer needs its URL alone; the rest is what most issuers do."""
    found = _parse(("github", {"issuer": GITHUB})).callers.issuers
    assert found == {
        "github": OidcIssuerSettings(
            issuer=GITHUB,
            audiences=("kubevend",),
            algorithms=("RS256",),
            ca_file="",
            jwks_url="",
            claims=(),
            groups_claim="",
            clock_skew_seconds=30,
            refresh_seconds=300,
            outage_seconds=3600,
        )
    }


@pytest.mark.parametrize(
    "values",
    [
        {"issuer": "https://gitlab.example:8443/sub/path/"},
        {
            "algorithms": ["EdDSA", "PS512"],
            "clock_skew_seconds": 0,
            "jwks_url": "https://10.0.0.1:6443/openid/v1/jwks?a=b",
        },
        {"refresh_seconds": 10, "outage_seconds": 10, "clock_skew_seconds": 300},
    ],
)
def test_an_issuer_can_be_told_apart(values: dict[str, object]) -> None:
    """What an issuer does otherwise can be set."""
    (found,) = _parse(("a-1", {"issuer": GITHUB, **values})).callers.issuers.values()
    assert {key: getattr(found, key) for key in values} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"issuer": "http://ci.example"}, "callers.issuers.ci.issuer is 'http://ci.example'; it must be the https URL"),
        ({"issuer": "https://"}, "it must be the https URL"),
        ({"issuer": "https://me:secret@ci.example"}, "it must be the https URL"),
        ({"issuer": "https://ci.example?a=b"}, "it must be the https URL"),
        ({"issuer": "https://ci.example#a"}, "it must be the https URL"),
        ({"issuer": "https://ci.example:port"}, "it must be the https URL"),
        ({"issuer": "https://ci.example "}, "it must be the https URL"),
        ({"issuer": ""}, "it must be the https URL"),
        ({"jwks_url": "http://ci.example/keys"}, "callers.issuers.ci.jwks_url is 'http://ci.example/keys'; it must be"),
        ({"audiences": []}, "a token for any audience would then do"),
        ({"audiences": ["kubevend", ""]}, "a token for any audience would then do"),
        ({"algorithms": []}, "callers.issuers.ci.algorithms has none; tokens must be signed"),
        ({"algorithms": ["RS256", "none"]}, "algorithms has none; tokens must be signed"),
        ({"algorithms": ["HS256"]}, "algorithms has HS256; tokens must be signed"),
        ({"algorithms": ["ES256K"]}, "algorithms has ES256K; tokens must be signed"),
        ({"claims": ["sub", ""]}, "callers.issuers.ci.claims has an empty name"),
        ({"clock_skew_seconds": 301}, "clock_skew_seconds is 301; it must be from 0 to 300"),
        ({"clock_skew_seconds": -1}, "it must be from 0 to 300"),
        ({"refresh_seconds": 9}, "refresh_seconds is 9; it must be from 10 to 86400"),
        ({"refresh_seconds": 86401, "outage_seconds": 86401}, "it must be from 10 to 86400"),
        ({"outage_seconds": 299}, "outage_seconds is 299; it must not be less than refresh_seconds, which is 300"),
        ({"audience": "kubevend"}, "callers.issuers.ci.audience is not a setting; did you mean"),
    ],
)
def test_what_would_weaken_an_issuer_stops_the_start(values: dict[str, object], words: str) -> None:
    """An issuer in clear, tokens for anybody, unsigned ones, and times that make no sense are refused with words."""
    with pytest.raises(SettingsError) as refusal:
        _parse(("ci", {"issuer": "https://ci.example", **values}))
    assert words in str(refusal.value)


@pytest.mark.parametrize("name", ["CI", "a_b", "-a", "a-", "a" * 64, '"a:b"', '"a/b"', '""'])
def test_an_issuers_name_is_part_of_names(name: str) -> None:
    """A name that could be mistaken for another in a caller's or a group's name is refused."""
    with pytest.raises(SettingsError, match="the name becomes part of the callers' names"):
        _parse((name, {"issuer": GITHUB}))


def test_a_token_has_one_issuer() -> None:
    """Two issuers, or an issuer and a cluster, cannot have one `iss`: its tokens would have two names."""
    with pytest.raises(SettingsError, match=r"issuers\.b\.issuer is .*, which callers\.issuers\.a has too"):
        _parse(("a", {"issuer": GITHUB}), ("b", {"issuer": GITHUB}))
    with pytest.raises(SettingsError, match=r"issuers\.a\.issuer is .*, which callers\.clusters\.prod has too"):
        _parse(("a", {"issuer": GITHUB}), more=f'[callers.clusters.prod]\nissuers = ["{GITHUB}"]')


def test_no_token_is_issued_by_which_its_owner_could_call() -> None:
    """The audiences of callers' tokens are kept from roles, those of every issuer too."""
    settings = _parse(("a", {"issuer": GITHUB, "audiences": ["one", "two"]}), ("b", {"issuer": "https://b"}))
    assert make_limits(settings).reserved_audiences == {"kubevend", "one", "two"}
    assert [issuer.url for issuer in make_issuers(settings, clock)] == [GITHUB, "https://b"]
