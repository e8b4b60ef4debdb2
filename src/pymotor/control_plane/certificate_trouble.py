"""Why a connection did not come about: whose certificate is wrong, and how."""

from __future__ import annotations

import ssl

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a certificate, and none is shown: name cert_file and key_file",
    "UNKNOWN_CA": "it does not know the authority of the certificate that is shown to it",
    "CERTIFICATE_EXPIRED": "the certificate that is shown to it has expired",
    "CERTIFICATE_REVOKED": "the certificate that is shown to it is revoked",
    "BAD_CERTIFICATE": "it refuses the certificate that is shown to it",
}
"""What a server says of the client's certificate (RFC 8446, section 6.2), by the end of OpenSSL's word."""


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def certificate_trouble(error: BaseException) -> str:
    """Whose certificate kept a connection from coming about and why, for a person; empty where it is not that."""
    found = _tls_error(error)
    if found is None:
        return ""
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is not taken: {found.verify_message}"
    reason = found.reason or ""
    if reason in _NO_TLS:
        return "it does not speak TLS"
    told = next((words for end, words in _ALERTS.items() if reason.endswith(end)), "")
    return told or f"TLS: {reason.lower().replace('_', ' ') or found}"


def why_not(error: BaseException) -> str:
    """Why a connection failed: by certificates, else in the error's own words, or its name."""
    return certificate_trouble(error) or str(error) or type(error).__name__


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Libraries wrap it in their own."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
