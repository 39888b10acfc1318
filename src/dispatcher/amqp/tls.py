"""TLS as a client: the context to connect with, what to warn of, and what a failed handshake means.

Verified, TLS 1.2 or newer and the system's authorities, unless code (never a URL) says otherwise. It opens no
connection and never asks at a terminal: a key with a password is refused.
"""

from __future__ import annotations

import os
import ssl
import stat
from typing import NoReturn

from ..errors import ConfigError
from .url import AmqpUrl, is_loopback

__all__ = ["client_context", "tls_failure", "tls_warnings"]

# X509_V_ERR_…: what OpenSSL's verification gives as its result (openssl/x509_vfy.h).
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED = 18
_UNKNOWN_AUTHORITY = (2, 19, 20, 21)  # no issuer, an untrusted root, no issuer at hand, a leaf that cannot be verified
_WRONG_NAME = (62, 64)  # a host name, an address

# Reasons of `ssl.SSLError`, as OpenSSL names them; releases differ.
_NO_TLS_SPOKEN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_NO_COMMON_VERSION = ("ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE")
_CERTIFICATE_WANTED = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")
_CERTIFICATE_REFUSED = (
    "ALERT_ACCESS_DENIED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_DECRYPT_ERROR",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)


def client_context(
    url: AmqpUrl, *, tls_config: ssl.SSLContext | None = None, insecure_skip_verify: bool = False
) -> ssl.SSLContext | None:
    """The context to connect to the hosts of `url` with; None is plain TCP.

    `tls_config`: used as it is. `insecure_skip_verify` True: encrypted, but to whomever answers.
    The files are read each time, so that a certificate that was replaced is taken at the next connection.

    Raises `ConfigError` for files that are missing or do not fit, for settings that contradict each other, and for TLS
    settings where there is no TLS: they must not seem to protect what goes in the clear.
    """
    files = [name for name in ("cacertfile", "certfile", "keyfile") if getattr(url, name) is not None]
    if not url.tls:
        _refuse_without_tls(url, files, tls_config, insecure_skip_verify)
        return None
    if tls_config is not None:
        if insecure_skip_verify or files:
            other = "insecure_skip_verify" if insecure_skip_verify else files[0]
            raise ConfigError(f"tls_config: expected it alone, got {other} besides; say in the context what that says")
        return _check_given(tls_config)
    if insecure_skip_verify and url.cacertfile is not None:
        raise ConfigError("expected cacertfile or insecure_skip_verify, got both; one verifies, the other does not")
    if url.keyfile is not None and url.certfile is None:
        raise ConfigError("keyfile: expected a certfile with it, got none; the broker wants a certificate, not a key")
    if url.mechanism == "EXTERNAL" and url.certfile is None:
        raise ConfigError("auth_mechanism=external: expected certfile (and keyfile) or tls_config to log in with")
    context = _context(url.cacertfile, insecure_skip_verify)
    if url.certfile is not None:
        _load_own(context, url.certfile, url.keyfile)
    return context


def tls_warnings(url: AmqpUrl, context: ssl.SSLContext | None) -> list[str]:
    """What to warn of, once, before connecting to `url` with `context`: a sentence each, without secrets."""
    if context is not None:
        if context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname:
            return []
        return [
            "TLS does not verify who the broker is: whoever is on the way can read the password and every task;"
            " leave insecure_skip_verify out, and name the broker's authority with cacertfile"
        ]
    if url.mechanism == "PLAIN" and not all(is_loopback(host) for host, _ in url.hosts):
        return [
            "the password and every task cross the network unencrypted; write amqps:// (RabbitMQ's port for it: 5671)"
        ]
    return []


def tls_failure(error: ssl.SSLError, host: str) -> ConfigError | None:
    """What `error`, raised while connecting to `host` or by the first read after it, means.

    None where trying again may help: the peer went away, or what came was damaged. With TLS 1.3 a broker refuses our
    certificate, or wants one, only after our side of the handshake is over (RFC 8446, section 4.4.2.4).
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigError(f"TLS to {host}: the broker's certificate {_unverified(error)}")
    reason = error.reason or ""
    if reason.startswith(_NO_TLS_SPOKEN):
        return ConfigError(
            f"TLS to {host}: expected TLS, but what listens there does not speak it;"
            " is it the port for plain AMQP (RabbitMQ: TLS is 5671, plain 5672)? Else write amqp://"
        )
    if reason.endswith(_NO_COMMON_VERSION):
        return ConfigError(
            f"TLS to {host}: expected TLS 1.2 or newer, which the broker does not offer; upgrade it there"
        )
    if reason.endswith(_CERTIFICATE_WANTED):
        return ConfigError(
            f"TLS to {host}: the broker broke the handshake off: it expects a client certificate, or has no cipher in"
            " common with us; give certfile and keyfile in the URL, or tls_config"
        )
    if reason.endswith(_CERTIFICATE_REFUSED):
        words = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return ConfigError(
            f"TLS to {host}: the broker refused our certificate ({words});"
            " expected one that is valid now and issued by an authority that the broker trusts"
        )
    return None


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    match error.verify_code:
        case code if code == _SELF_SIGNED:
            return (
                "is self-signed: expected one of an authority that is trusted here;"
                " if it is the right one, name its file as cacertfile"
            )
        case code if code in _UNKNOWN_AUTHORITY:
            return (
                "comes from an authority that is not trusted here: expected one of the system's or of cacertfile;"
                " name the file of that authority as cacertfile"
            )
        case code if code == _EXPIRED:
            return "has expired, or one of its authority has: renew it at the broker; is the clock here right?"
        case code if code == _NOT_YET_VALID:
            return "is not valid yet, or one of its authority is not: is the clock here right?"
        case code if code in _WRONG_NAME:
            return (
                f"is for another host: {error.verify_message.rstrip('.')}; connect by a name that it bears,"
                " or say that name as server_name_indication"
            )
        case _:
            return f"was not accepted: {error.verify_message}"


def _refuse_without_tls(
    url: AmqpUrl, files: list[str], tls_config: ssl.SSLContext | None, insecure_skip_verify: bool
) -> None:
    given = {
        "tls_config": tls_config is not None,
        "insecure_skip_verify": insecure_skip_verify,
        **dict.fromkeys(files, True),
        "server_name_indication": url.server_name_indication is not None,
        "auth_mechanism=external": url.mechanism == "EXTERNAL",
    }
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(f"{name}: expected TLS with it, got a plain amqp:// URL; write amqps://")


def _check_given(context: ssl.SSLContext) -> ssl.SSLContext:
    if not isinstance(context, ssl.SSLContext):
        raise ConfigError(f"tls_config: expected an ssl.SSLContext, got {type(context).__name__}")
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ConfigError(
            "tls_config: expected a context for a client, got one for a server; use create_default_context()"
        )
    return context


def _context(cacertfile: str | None, insecure_skip_verify: bool) -> ssl.SSLContext:
    if insecure_skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # must come first: it is not allowed without verification
        context.verify_mode = ssl.CERT_NONE
    elif cacertfile is None:
        context = ssl.create_default_context()
    else:
        _check_readable("cacertfile", cacertfile)
        try:
            context = ssl.create_default_context(cafile=cacertfile)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"cacertfile {cacertfile!r}: expected PEM certificates of authorities: {error}"
            ) from error
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)  # a system may ask for more
    return context


def _load_own(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    key = f"keyfile {keyfile!r}" if keyfile is not None else f"certfile {certfile!r}"

    def refuse_password() -> NoReturn:
        # Without this OpenSSL asks at the terminal, and a worker in the background waits there for ever.
        raise ConfigError(
            f"{key}: expected a private key without a password, got an encrypted one;"
            " decrypt it into a file that only this user can read, or load it yourself and pass tls_config"
        )

    _check_readable("certfile", certfile)
    if keyfile is not None:
        _check_readable("keyfile", keyfile)
    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_password)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{key}: expected the private key of the certificate in certfile {certfile!r}, got that of another"
            ) from error
        raise ConfigError(
            f"certfile {certfile!r}: expected a PEM certificate there and its PEM private key in"
            f" {key if keyfile is not None else 'the same file (no keyfile was given)'}: {error}"
        ) from error


def _check_readable(parameter: str, path: str) -> None:
    """OpenSSL does not say which of its files it could not read, and would wait for ever at a pipe."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb"):
                return
        problem = "it is no regular file"
    except OSError as error:
        problem = (error.strerror or type(error).__name__).lower()
    raise ConfigError(f"{parameter} {path!r}: expected a PEM file that this user can read: {problem}")
