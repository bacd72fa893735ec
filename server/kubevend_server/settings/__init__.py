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
    Policy,
    Settings,
    Store,
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
    "Policy",
    "Settings",
    "SettingsError",
    "Store",
    "load",
    "parse",
]
