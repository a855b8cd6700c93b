"""Keys and secrets are made once, kept private, and taken as ssh-keygen makes them."""

from __future__ import annotations

import shutil
import stat
import subprocess
from functools import partial
from pathlib import Path

import pytest

from architex.gateways.clock import SystemRandomness
from architex.storage import key_files
from architex.storage.key_files import (
    load_or_create_signing_key,
)
from architex.storage.start_refusal import StartRefused

random_bytes = SystemRandomness().bytes


def test_key_is_made_once_and_loaded_after(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "id_ed25519"
    made = load_or_create_signing_key(path, random_bytes)
    loaded = load_or_create_signing_key(path, random_bytes)
    assert loaded.key_id == made.key_id
    assert loaded.verify_key_base64 == made.verify_key_base64
    assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_key_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    load_or_create_signing_key(path, random_bytes)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["id_ed25519"]


def test_key_id_is_of_the_grammar_and_follows_the_key(tmp_path: Path) -> None:
    seeds = [bytes([number]) * 32 for number in range(40)]
    ids = set()
    for number, seed in enumerate(seeds):
        key = load_or_create_signing_key(tmp_path / str(number), partial(bytes.ljust, seed))
        algorithm, version = key.key_id.split(":")
        assert algorithm == "ed25519"
        assert version.replace("_", "").isalnum()
        assert version.isascii()
        ids.add(key.key_id)
    assert len(ids) == len(seeds)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_key_of_ssh_keygen_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    keygen = str(shutil.which("ssh-keygen"))
    subprocess.run([keygen, "-q", "-t", "ed25519", "-f", str(path), "-N", ""], check=True)
    before = path.read_bytes()
    key = load_or_create_signing_key(path, random_bytes)
    assert path.read_bytes() == before
    assert len(key.verify_key_base64) == 43


def test_file_that_is_no_key_is_refused_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    path.write_text("not a key")
    with pytest.raises(StartRefused) as refused:
        load_or_create_signing_key(path, random_bytes)
    assert refused.value.code == "A030"
    assert f"ssh-keygen -t ed25519 -N '' -f {path}" in refused.value.mend


def test_key_that_everybody_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "id_ed25519"
    made = load_or_create_signing_key(path, random_bytes)
    monkeypatch.setattr(key_files, "COMPROMISED_KEYS", {made.verify_key})
    with pytest.raises(StartRefused) as refused:
        load_or_create_signing_key(path, random_bytes)
    assert refused.value.code == "A030"
    assert str(path) in refused.value.mend


def test_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused) as refused:
        load_or_create_signing_key(tmp_path / "file" / "id_ed25519", random_bytes)
    assert refused.value.code == "A030"
