"""How this server process runs: a TOML file."""

from kubevend_server.settings.checks import SettingsError
from kubevend_server.settings.loading import load, parse
from kubevend_server.settings.sections import (
    Audit,
    CallerClusterSettings,
    Callers,
    InstanceSettings,
    IssuanceSettings,
    Kubernetes,
    LeaseSettings,
    LimitSettings,
    Listener,
    MetricsSettings,
    OidcIssuerSettings,
    Policy,
    ProxySettings,
    Settings,
    Store,
    TrustDomainSettings,
)

__all__ = [
    "Audit",
    "CallerClusterSettings",
    "Callers",
    "InstanceSettings",
    "IssuanceSettings",
    "Kubernetes",
    "LeaseSettings",
    "LimitSettings",
    "Listener",
    "MetricsSettings",
    "OidcIssuerSettings",
    "Policy",
    "ProxySettings",
    "Settings",
    "SettingsError",
    "Store",
    "TrustDomainSettings",
    "load",
    "parse",
]
