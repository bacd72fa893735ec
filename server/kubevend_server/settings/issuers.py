"""What cannot be in the settings of OIDC issuers, and what to put in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from kubevend_server.authentication.json_web_keys import ALGORITHMS
from kubevend_server.settings.callers import CallersSettings, OidcIssuerSettings

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MOST_SKEW = 300
_LEAST_REFRESH = 10
_MOST_REFRESH = 86400


def issuer_faults(callers: CallersSettings) -> Iterator[str]:
    """What is wrong with the issuers, each in words that say what to do."""
    owners = {url: f"callers.clusters.{name}" for name, cluster in callers.clusters.items() for url in cluster.issuers}
    for name, issuer in callers.issuers.items():
        key = f"callers.issuers.{name}"
        if not _NAME.fullmatch(name):
            yield (
                f"{key}: the name becomes part of the callers' names: use 1 to 63 lower-case letters, digits and "
                "hyphens, no hyphen first or last."
            )
        if issuer.issuer in owners:
            yield (
                f"{key}.issuer is {issuer.issuer!r}, which {owners[issuer.issuer]} has too: a token would have two "
                "names for its caller. Leave one of them out."
            )
        owners[issuer.issuer] = key
        yield from _url_faults(key, issuer)
        yield from _token_faults(key, issuer)
        yield from _time_faults(key, issuer)


def _url_faults(key: str, issuer: OidcIssuerSettings) -> Iterator[str]:
    if not _is_https(issuer.issuer) or "?" in issuer.issuer:
        yield (
            f"{key}.issuer is {issuer.issuer!r}; it must be the https URL that the issuer's tokens have in iss, like "
            "https://token.actions.githubusercontent.com."
        )
    if issuer.jwks_url and not _is_https(issuer.jwks_url):
        yield f"{key}.jwks_url is {issuer.jwks_url!r}; it must be an https URL, or empty to have it found."


def _is_https(text: str) -> bool:
    try:
        url = urlsplit(text)
        fits = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return fits and "@" not in url.netloc and "#" not in text and text.isprintable() and " " not in text


def _token_faults(key: str, issuer: OidcIssuerSettings) -> Iterator[str]:
    if not all(issuer.audiences) or not issuer.audiences:
        yield f"{key}.audiences is empty, or one of them is: a token for any audience would then do."
    wrong = sorted(set(issuer.algorithms) - ALGORITHMS)
    if wrong or not issuer.algorithms:
        yield (
            f"{key}.algorithms has {', '.join(wrong) or 'none'}; tokens must be signed, with a private key that only "
            f"the issuer has: {', '.join(sorted(ALGORITHMS))}."
        )
    if not all(issuer.claims):
        yield f"{key}.claims has an empty name."


def _time_faults(key: str, issuer: OidcIssuerSettings) -> Iterator[str]:
    skew, refresh, outage = issuer.clock_skew_seconds, issuer.refresh_seconds, issuer.outage_seconds
    if not 0 <= skew <= _MOST_SKEW:
        yield f"{key}.clock_skew_seconds is {skew:g}; it must be from 0 to {_MOST_SKEW}."
    if not _LEAST_REFRESH <= refresh <= _MOST_REFRESH:
        yield f"{key}.refresh_seconds is {refresh:g}; it must be from {_LEAST_REFRESH} to {_MOST_REFRESH}."
    if not outage >= refresh:
        yield f"{key}.outage_seconds is {outage:g}; it must not be less than refresh_seconds, which is {refresh:g}."
