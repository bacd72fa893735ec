"""The rules that a config must keep: whom the credential may be sent to, and where its files may be."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubevend_server.certificates import authorities_fault, pair_fault
from kubevend_server.configs import Config, Credential
from kubevend_server.errors import InvalidArgument, Violation

ANY_HOST = "*"

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HTTPS_HOST = re.compile(
    rf"https://((?P<name>{_LABEL}([.]{_LABEL})*)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{{1,5}}))?"
)
# Resolvers take a name that ends in a number for an IPv4 address (inet_aton), in forms that no policy foresees.
_NUMBER = re.compile("[0-9]+|0[xX][0-9A-Fa-f]*")
_HTTPS_PORT = 443
_BEARER = re.compile("[!-~]+")


@dataclass(frozen=True, slots=True)
class ConfigRules:
    """What this server allows of a config.

    Attributes:
        own_host: the pod's own API server, or empty outside of a pod.
        credential_folders: where the files of credentials may be, and to which hosts what is in them may be shown; `*`
            stands for any. Of folders within folders the deepest that holds a file decides.
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
            fault = self.file_fault(path, config.kubernetes_host)
            if fault:
                yield Violation(f"config.{name}", fault)

    def _host(self, config: Config) -> Iterator[Violation]:
        host, field = config.kubernetes_host, "config.kubernetes_host"
        if config.credential.kind == "in_cluster":
            if host and host != normalized(self.own_host):
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

    def file_fault(self, path: str, host: str) -> str:
        """Why what is in a file may not be shown to a host; empty where it may."""
        # The real path: neither `..` nor a symbolic link leads out of the folder.
        real = os.path.realpath(path)
        folders = {folder: os.path.realpath(folder) for folder in self.credential_folders}
        holding = {folder: where for folder, where in folders.items() if os.path.commonpath([real, where]) == where}
        if not holding:
            allowed = ", ".join(self.credential_folders) or "none"
            return f"{path!r} is not in a folder that the server's settings allow ({allowed})"
        # A folder within a folder is there to be narrower. Where two names lead to one folder, both must allow it.
        deepest = max(holding.values(), key=len)
        for folder in (folder for folder, where in holding.items() if where == deepest):
            hosts = self.credential_folders[folder]
            if ANY_HOST not in hosts and normalized(host) not in map(normalized, hosts):
                return (
                    f"{path!r} may not be shown to {host}: the server's settings let what is in {folder} go to "
                    f"{', '.join(sorted(hosts)) or 'no host'} only"
                )
        return ""


def is_https(host: str) -> bool:
    """Whether this is an https URL of a host alone."""
    return _normalize(host) is not None


def normalized(host: str) -> str:
    """An https URL of a host alone in the one form in which it is compared; anything else as it is.

    That is: in lower case, without port 443 and without leading zeros in another port, and an IPv6 address as RFC 5952
    has it, or as IPv4 where that is mapped into it.
    """
    return _normalize(host) or host


def _normalize(host: str) -> str | None:
    found = _HTTPS_HOST.fullmatch(host)
    if found is None or not 0 < (port := int(found["port"] or _HTTPS_PORT)) < 1 << 16:
        return None
    try:
        name = _ipv6(found["ipv6"]) if found["ipv6"] else _name(found["name"])
    except ipaddress.AddressValueError:
        return None
    return f"https://{name}" if port == _HTTPS_PORT else f"https://{name}:{port}"


def _ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    return str(address.ipv4_mapped or f"[{address.compressed}]")


def _name(text: str) -> str:
    if _NUMBER.fullmatch(text.rpartition(".")[2]):
        return str(ipaddress.IPv4Address(text))
    return text.lower()


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
