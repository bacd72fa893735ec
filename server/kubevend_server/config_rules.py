"""The rules that a config must keep: whom the credential may be sent to, and where its files may be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubevend_server.certificates import authorities_fault, pair_fault
from kubevend_server.configs import Config, Credential
from kubevend_server.errors import InvalidArgument, Violation

ANY_HOST = "*"

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HTTPS_HOST = re.compile(rf"https://({_LABEL}([.]{_LABEL})*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?")
_BEARER = re.compile("[!-~]+")


@dataclass(frozen=True, slots=True)
class ConfigRules:
    """What this server allows of a config.

    Attributes:
        own_host: the pod's own API server, or empty outside of a pod.
        credential_folders: where the files of credentials may be, and to which hosts what is in them may be shown; `*`
            stands for any.
    """

    own_host: str
    credential_folders: Mapping[str, Sequence[str]]

    def check(self, config: Config) -> None:
        """Check a config that is to be written.

        Raises:
            InvalidArgument: with every fault, by field.
        """
        faults = [*self._host(config), *_credential(config.credential), *self.files(config), *_ca(config)]
        if faults:
            what = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
            raise InvalidArgument(
                "CONFIG_INVALID",
                f"{config.name} cannot be: {what}.",
                metadata={"config": config.name},
                violations=faults,
            )

    def files(self, config: Config) -> Iterator[Violation]:
        """What is wrong with the files that a config names: settings can change after it was written."""
        for name, path in config.credential.files.items():
            fault = self._file_fault(path, config.kubernetes_host)
            if fault:
                yield Violation(f"config.{name}", fault)

    def _host(self, config: Config) -> Iterator[Violation]:
        host, field = config.kubernetes_host, "config.kubernetes_host"
        if config.credential.kind == "in_cluster":
            if host and host != self.own_host:
                own = self.own_host or "none, since kubevend does not run in a pod"
                yield Violation(
                    field,
                    f"the pod's own credential goes to the pod's own API server only ({own}); for another host set "
                    "another credential, as token_file or service_account_jwt",
                )
            elif not self.own_host:
                yield Violation(
                    field,
                    "kubevend does not run in a pod, so there is no in-cluster credential: set kubernetes_host, and a "
                    "credential, as token_file or service_account_jwt",
                )
            return
        if not is_https(host):
            yield Violation(field, f"{host!r} is not an https URL of a host alone, like https://10.0.0.1:6443")

    def _file_fault(self, path: str, host: str) -> str:
        # The real path: neither `..` nor a symbolic link leads out of the folder.
        real = os.path.realpath(path)
        holding = {
            folder: hosts
            for folder, hosts in self.credential_folders.items()
            if os.path.commonpath([real, os.path.realpath(folder)]) == os.path.realpath(folder)
        }
        if not holding:
            allowed = ", ".join(self.credential_folders) or "none"
            return f"{path!r} is not in a folder that the server's settings allow ({allowed})"
        hosts = {allowed for folder_hosts in holding.values() for allowed in folder_hosts}
        if ANY_HOST in hosts or _plain(host) in map(_plain, hosts):
            return ""
        return (
            f"{path!r} may not be shown to {host}: the server's settings let what is in {', '.join(holding)} go to "
            f"{', '.join(sorted(hosts)) or 'no host'} only"
        )


def is_https(host: str) -> bool:
    """Whether this is an https URL of a host alone."""
    found = _HTTPS_HOST.fullmatch(host)
    return found is not None and 0 < int(found["port"] or "443") < 1 << 16


def _credential(credential: Credential) -> Iterator[Violation]:
    if credential.kind == "service_account_jwt" and not _BEARER.fullmatch(credential.service_account_jwt):
        yield Violation("config.service_account_jwt", "it must be a token, without spaces or line ends")
    if credential.kind == "client_certificate":
        fault = pair_fault(credential.certificate, credential.private_key)
        if fault:
            yield Violation("config.client_certificate", fault)


def _ca(config: Config) -> Iterator[Violation]:
    fault = authorities_fault(config.kubernetes_ca_cert) if config.kubernetes_ca_cert else ""
    if fault:
        yield Violation("config.kubernetes_ca_cert", fault)


def _plain(host: str) -> str:
    return host.lower().removesuffix(":443")
