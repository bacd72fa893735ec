"""How this server process runs: a TOML file."""

from kubevend_server.settings.callers import (
    CallerClusterSettings,
    CallersSettings,
    OidcIssuerSettings,
    ProxySettings,
    TrustDomainSettings,
)
from kubevend_server.settings.checks import SettingsError
from kubevend_server.settings.loading import load, parse
from kubevend_server.settings.sections import (
    AuditSettings,
    InstanceSettings,
    IssuanceSettings,
    KubernetesSettings,
    LeaseSettings,
    LimitSettings,
    ListenerSettings,
    MetricsSettings,
    PolicySettings,
    Settings,
    StoreSettings,
)

__all__ = [
    "AuditSettings",
    "CallerClusterSettings",
    "CallersSettings",
    "InstanceSettings",
    "IssuanceSettings",
    "KubernetesSettings",
    "LeaseSettings",
    "LimitSettings",
    "ListenerSettings",
    "MetricsSettings",
    "OidcIssuerSettings",
    "PolicySettings",
    "ProxySettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "TrustDomainSettings",
    "load",
    "parse",
]
