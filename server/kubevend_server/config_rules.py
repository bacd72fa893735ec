"""The rules that a config must keep: whom the credential may be sent to, and where token files may be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509

from kubevend_server.configs import Config
from kubevend_server.errors import InvalidArgument, Violation

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HTTPS_HOST = re.compile(rf"https://({_LABEL}([.]{_LABEL})*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?")
_BEARER = re.compile("[!-~]+")


@dataclass(frozen=True, slots=True)
class ConfigRules:
    """What this server allows of a config.

    Attributes:
        own_host: the pod's own API server, or empty outside of a pod.
        token_folders: where token files may be.
    """

    own_host: str
    token_folders: Sequence[str]

    def check(self, config: Config) -> None:
        """Check a config that is to be written.

        Raises:
            InvalidArgument: with every fault, by field.
        """
        faults = [*self._host(config), *self._credential(config), *_ca(config.kubernetes_ca_cert)]
        if faults:
            what = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
            raise InvalidArgument(
                "CONFIG_INVALID",
                f"{config.name} cannot be: {what}.",
                metadata={"config": config.name},
                violations=faults,
            )

    def _host(self, config: Config) -> Iterator[Violation]:
        host, field = config.kubernetes_host, "config.kubernetes_host"
        if config.credential.kind == "in_cluster":
            if host and host != self.own_host:
                own = self.own_host or "none, since kubevend does not run in a pod"
                yield Violation(
                    field,
                    f"the pod's own credential goes to the pod's own API server only ({own}); for another host set "
                    "token_file or service_account_jwt",
                )
            elif not self.own_host:
                yield Violation(
                    field,
                    "kubevend does not run in a pod, so there is no in-cluster credential: set kubernetes_host, and "
                    "token_file or service_account_jwt",
                )
            return
        if not _is_https(host):
            yield Violation(field, f"{host!r} is not an https URL of a host alone, like https://10.0.0.1:6443")

    def _credential(self, config: Config) -> Iterator[Violation]:
        credential = config.credential
        if credential.kind == "service_account_jwt" and not _BEARER.fullmatch(credential.service_account_jwt):
            yield Violation("config.service_account_jwt", "it must be a token, without spaces or line ends")
        if credential.kind == "token_file" and not self._is_allowed(credential.token_file):
            allowed = ", ".join(self.token_folders) or "none"
            yield Violation(
                "config.token_file",
                f"{credential.token_file!r} is not in a folder that the server's settings allow ({allowed})",
            )

    def _is_allowed(self, path: str) -> bool:
        # The real path: neither `..` nor a symbolic link leads out of the folder.
        real = os.path.realpath(path)
        return any(os.path.commonpath([real, folder]) == folder for folder in map(os.path.realpath, self.token_folders))


def _is_https(host: str) -> bool:
    found = _HTTPS_HOST.fullmatch(host)
    return found is not None and 0 < int(found["port"] or "443") < 1 << 16


def _ca(pem: str) -> Iterator[Violation]:
    if not pem:
        return
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        yield Violation("config.kubernetes_ca_cert", "it is not PEM certificates (-----BEGIN CERTIFICATE-----)")
