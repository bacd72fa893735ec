"""Whether a certificate and a key in files belong together."""

from __future__ import annotations

import ssl

from kubevend.connection import Settings


def mismatch(settings: Settings) -> str:
    """What is wrong with the certificate to call with and its key; empty for nothing, or where there are none.

    They are replaced one after the other, so for a moment they may not fit.
    """
    certificate, key = settings.client_cert_file, settings.client_key_file
    if certificate is None or key is None:
        return ""
    try:
        # With a password, for which OpenSSL would otherwise ask at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as problem:
        return (
            f"{settings.called('client_cert_file')} and {settings.called('client_key_file')}: {certificate} and {key} "
            f"are no certificate and its key in PEM, the key without a password: {problem}."
        )
    return ""
