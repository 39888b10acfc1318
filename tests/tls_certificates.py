"""Certificates for tests of TLS, made anew each time: right ones, and every kind of wrong one.

The keys protect nothing; nothing of it may be trusted outside of a test.
"""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["Certificates", "KeyPair"]


@dataclass(frozen=True)
class KeyPair:
    """A PEM certificate and its PEM private key, as files."""

    certfile: Path
    keyfile: Path


class Certificates:
    """An authority, its file `cacertfile`, and what it issues into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._authority = trustme.CA()
        self.cacertfile = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.cacertfile))

    def server(self, *names: str) -> KeyPair:
        """For the host names and addresses given; none: localhost and its addresses."""
        return self._write(self._authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1"))))

    def expired(self) -> KeyPair:
        """For localhost, and out of date for years."""
        return self._of_time(2020, 2021)

    def not_yet_valid(self) -> KeyPair:
        """For localhost, and valid in a distant future only."""
        return self._of_time(2090, 2091)

    def of_unknown_authority(self) -> KeyPair:
        """For localhost, but issued by another authority than `cacertfile`."""
        return self._write(trustme.CA().issue_cert("localhost", "127.0.0.1", "::1"))

    def self_signed(self) -> KeyPair:
        """Issued by itself."""
        alone = trustme.CA()
        return self._write_pem(alone.cert_pem.bytes(), alone.private_key_pem.bytes())

    def client(self, user: str) -> KeyPair:
        """A client's, with `user` as its common name: what RabbitMQ's EXTERNAL can take the user from."""
        # Without any other name the critical extension for them is empty, which Erlang refuses.
        return self._write(self._authority.issue_cert("client.example", common_name=user))

    def with_password(self, pair: KeyPair, password: str) -> KeyPair:
        """The same certificate, its key encrypted with `password`."""
        key = load_pem_private_key(pair.keyfile.read_bytes(), password=None)
        encryption = BestAvailableEncryption(password.encode())
        return self._write_pem(
            pair.certfile.read_bytes(), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        )

    def in_one_file(self, pair: KeyPair) -> Path:
        """Certificate and key in one file."""
        path = self._folder / f"both{next(self._numbers)}.pem"
        path.write_bytes(pair.certfile.read_bytes() + pair.keyfile.read_bytes())
        return path

    def _of_time(self, first_year: int, last_year: int) -> KeyPair:
        return self._write(
            self._authority.issue_cert(
                "localhost",
                "127.0.0.1",
                "::1",
                not_before=datetime.datetime(first_year, 1, 1),
                not_after=datetime.datetime(last_year, 1, 1),
            )
        )

    def _write(self, leaf: trustme.LeafCert) -> KeyPair:
        return self._write_pem(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

    def _write_pem(self, certificate: bytes, key: bytes) -> KeyPair:
        number = next(self._numbers)
        pair = KeyPair(self._folder / f"certificate{number}.pem", self._folder / f"key{number}.pem")
        pair.certfile.write_bytes(certificate)
        pair.keyfile.touch(mode=0o600)
        pair.keyfile.write_bytes(key)
        return pair
