"""The file with the server's signing key: read, or made when there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from architex.domain.signing import COMPROMISED_KEYS, SigningKey
from architex.domain.unpadded_base64 import encode_base64url
from architex.storage.start_refusal import StartRefused

RandomBytes = Callable[[int], bytes]


def load_or_create_signing_key(path: Path, random_bytes: RandomBytes) -> SigningKey:
    """The signing key in a file; a new one is written there if there is no file.

    The file is what `ssh-keygen -t ed25519 -f keys/id_ed25519 -N ""` makes. Several processes may
    call this at once: all get the same key.

    Raises StartRefused (A030) when the file cannot be read, written or understood.
    """
    try:
        if not path.exists():
            _create(path, _new_key_file(random_bytes(32)))
        return load_signing_key(path)
    except OSError as error:
        raise StartRefused(
            "A030",
            f"cannot read or write the signing key {path}: {error.strerror}",
            mend=f"sudo chown $(id -u) {path.parent} {path}",
        ) from error


def load_signing_key(path: Path) -> SigningKey:
    """The Ed25519 key in a file in OpenSSH format, without a passphrase.

    Raises OSError when it cannot be read, StartRefused (A030) when it is no such key.
    """
    text = path.read_bytes()
    try:
        key = load_ssh_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StartRefused(
            "A030",
            f"{path} is no private key in OpenSSH format without a passphrase: {error}",
            mend=f"ssh-keygen -p -N '' -f {path}   (takes a passphrase away), or "
            f"ssh-keygen -t ed25519 -N '' -f {path}   (a new key)",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StartRefused(
            "A030",
            f"{path} is a {type(key).__name__}; Matrix signs with Ed25519",
            mend=f"ssh-keygen -t ed25519 -N '' -f {path}",
        )
    signing_key = SigningKey.from_seed(key.private_bytes_raw(), _key_version(key))
    if signing_key.verify_key in COMPROMISED_KEYS:
        raise StartRefused(
            "A030",
            f"{path} is a key that everybody has, and that other servers do not believe",
            mend=f"rm {path}   (the next start makes a new key)",
        )
    return signing_key


def _key_version(key: Ed25519PrivateKey) -> str:
    """A name for the key that only depends on the key: no two keys of a server share one.

    Spec: https://spec.matrix.org/v1.19/appendices/#signing-details ([a-zA-Z0-9_])
    """
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return "a_" + encode_base64url(public)[:6].replace("-", "_")


def _new_key_file(seed: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _create(path: Path, content: bytes) -> None:
    """Write a file that only we can read, whole or not at all; keep it if somebody was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
