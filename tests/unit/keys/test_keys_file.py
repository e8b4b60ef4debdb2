"""The keys file and the verb that writes it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from another_user import reachable_directory, run_unprivileged
from pymotor.cli import main
from pymotor.coordinator.keys.key_hash import KeyHash
from pymotor.coordinator.keys.key_source import KeySource
from pymotor.coordinator.keys.keys_file import KeysFileError, read_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def api_key(capsys: pytest.CaptureFixture[str], file: Path, *words: str) -> Any:
    """What the verb prints as JSON."""
    assert main(["api-key", words[0], "--keys-file", str(file), "--json", *words[1:]]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_from_its_creation_to_its_end(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = api_key(capsys, file, "create", "--name", "alice", "--expires", "90d", "--max-requests", "5")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["key"] not in file.read_text()
    (record,) = read_keys(file)
    assert KeyHash(record.hash).fits(made["key"].encode())
    (listed,) = api_key(capsys, file, "list")
    assert "key" not in listed
    assert "hash" not in listed
    assert (listed["name"], listed["state"], listed["scopes"], listed["max_requests"]) == (
        *("alice", "active", ["inference"]),
        5,
    )
    assert api_key(capsys, file, "revoke", "alice")["state"] == "revoked"
    assert KeySource((), file).read() == ()
    assert main(["api-key", "revoke", "--keys-file", str(file), "alice"]) == 1
    assert api_key(capsys, file, "create", "--name", "alice")["id"] != listed["id"], "the name is free again"


def test_the_words_for_people_show_a_key_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["api-key", "create", "--keys-file", str(file), "--name", "bob", "--scope", "read"]) == 0
    shown = capsys.readouterr()
    key = shown.out.strip()
    assert key.startswith("sk-pm-")
    assert key not in shown.err
    assert main(["api-key", "list", "--keys-file", str(file)]) == 0
    listed = capsys.readouterr().out
    assert "bob" in listed
    assert key not in listed
    assert read_keys(file)[0].hash not in listed


@pytest.mark.parametrize("words", [
    ("--name", ""), ("--name", "a b"), ("--name", "a\nb"), ("--name", "-a"), ("--name", "a" * 65), (),
    ("--name", "a", "--scope", "root"), ("--name", "a", "--expires", "soon"),
    ("--name", "a", "--expires", "2030-01-01"),
    ("--name", "a", "--max-requests", "0"),
])  # fmt: skip
def test_wrong_usage(file: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["api-key", "create", "--keys-file", str(file), *words])
    assert ended.value.code == 2
    assert not file.exists()


def test_a_name_twice_and_a_time_that_is_over(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api_key(capsys, file, "create", "--name", "alice")
    before = file.read_bytes()
    for words in (["--name", "alice"], ["--name", "b", "--expires", "2020-01-01T00:00:00Z"]):
        assert main(["api-key", "create", "--keys-file", str(file), *words]) == 1
    assert file.read_bytes() == before


def test_many_writers_at_once_lose_nothing(file: Path) -> None:
    argv = [sys.executable, "-m", "pymotor", "api-key", "create", "--keys-file", str(file), "--name"]
    writers = [subprocess.Popen([*argv, f"key-{number}"], stdout=subprocess.DEVNULL) for number in range(6)]
    assert [writer.wait(60) for writer in writers] == [0] * 6
    assert {key.name for key in read_keys(file)} == {f"key-{number}" for number in range(6)}


def written(file: Path, mode: int = 0o600, **changes: Any) -> Path:
    key = {
        "id": "0123456789ab",
        "name": "a",
        "hash": f"salt:1000:{'0' * 64}",
        "scopes": ["read"],
        "created_at": "2026-01-01T00:00:00Z",
    }
    file.write_text(json.dumps({"version": 1, "keys": [{**key, **changes}]}))
    file.chmod(mode)
    return file


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o601])
def test_a_file_that_others_may_use_is_refused(file: Path, mode: int) -> None:
    with pytest.raises(KeysFileError, match="chmod 600"):
        read_keys(written(file, mode))


@pytest.mark.parametrize("changes", [
    {"id": "xyz"}, {"name": "a b"}, {"hash": "plain"}, {"scopes": []}, {"scopes": ["root"]}, {"max_tokens": 0},
    {"created_at": "2026-01-01T00:00:00"}, {"expires": "2027-01-01T00:00:00Z"}, {"expires_at": 5},
])  # fmt: skip
def test_a_record_that_cannot_be_meant_is_refused(file: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(KeysFileError):
        read_keys(written(file, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"keys": 1}', "\xff"])
def test_a_file_that_is_something_else_is_refused(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    file.chmod(0o600)
    with pytest.raises(KeysFileError):
        read_keys(file)


def test_there_is_no_file(file: Path) -> None:
    with pytest.raises(KeysFileError, match="pymotor api-key create"):
        read_keys(file)


@pytest.mark.parametrize("words", [("list",), ("revoke", "a")])
def test_where_there_is_no_file_nothing_is_left(
    file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["api-key", words[0], "--keys-file", str(file), *words[1:]]) == 1
    assert capsys.readouterr().err == (
        f"pymotor api-key: the keys file {file} cannot be read: No such file or directory; make one with "
        "`pymotor api-key create`\n"
    )
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("words", [("create", "--name", "a"), ("revoke", "a")])
def test_a_file_system_without_locks_is_told(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    api_key(capsys, file, "create", "--name", "b")
    before = file.read_bytes()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main(["api-key", words[0], "--keys-file", str(file), *words[1:]]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{file}.lock cannot be locked: {os.strerror(errno.ENOLCK)}" in shown.err
    assert file.read_bytes() == before


@pytest.mark.parametrize("words", [("create", "--name", "a"), ("list",), ("revoke", "a")])
def test_a_link_to_itself_is_told(file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    file.symlink_to(file.name)
    assert main(["api-key", words[0], "--keys-file", str(file), *words[1:]]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "cannot be read: Too many levels of symbolic links" in shown.err


def test_a_key_keeps_its_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = [f"salt:1000:{digit * 64}" for digit in "12"]
    first = api_key(capsys, file, "create", "--name", "first")
    source = KeySource(hashes, file)
    before = {key.id: key.place for key in source.read()}
    assert sorted(before.values()) == [0, 1, 2]
    api_key(capsys, file, "create", "--name", "second")
    api_key(capsys, file, "revoke", first["id"])
    after = {key.id: key.place for key in source.read()}
    assert all(after.get(key_id, place) == place for key_id, place in before.items())
    assert 3 in after.values(), "the place of a key that is gone is nobody else's"


def test_several_scopes_with_commas_or_by_repeating(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = api_key(capsys, file, "create", "--name", "a", "--scope", "inference,read", "--scope", "read, admin")
    assert made["scopes"] == ["inference", "read", "admin"]
    with pytest.raises(SystemExit) as ended:
        main(["api-key", "create", "--keys-file", str(file), "--name", "b", "--scope", "inference,write"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "'write' is no scope: inference, read, admin; several are written inference,read" in told


@pytest.mark.parametrize("written", ["90", "0d", "90m", "soon"])
def test_a_length_without_a_unit_is_told_the_units(
    file: Path, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["api-key", "create", "--keys-file", str(file), "--name", "a", "--expires", written])
    assert ended.value.code == 2
    assert "h for hours, d for days or w for weeks (12h, 90d, 4w)" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("words", [("create", "--name", "a"), ("list",), ("revoke", "a")])
def test_a_directory_is_no_keys_file_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    assert main(["api-key", words[0], "--keys-file", str(directory), *words[1:]]) == 1
    assert f"{directory} is a directory; name a file in it, such as {directory}/keys.json" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [directory]
    assert main(["api-key", "create", "--keys-file", str(directory / "no" / "keys.json"), "--name", "a"]) == 1
    assert "name a file in a directory that is there" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("create", "--name", "a"), ("list",), ("revoke", "a")])
@pytest.mark.parametrize("name", ["locked/keys.json", "locked/below/keys.json", "link.json", "n" * 300])
def test_a_file_that_this_user_cannot_get_at_is_told_in_one_line(words: tuple[str, ...], name: str) -> None:
    with reachable_directory() as directory:
        (directory / "locked").mkdir(mode=0)
        (directory / "link.json").symlink_to(directory / "locked" / "keys.json")
        ended = run_unprivileged("api-key", words[0], "--keys-file", directory / name, *words[1:])
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
    assert ended.stderr.startswith(f"pymotor api-key: the keys file {directory / name} cannot be ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["words", "JSON"])
def test_a_key_that_nobody_could_see_is_not_stored(file: Path, redirection: str, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pymotor", "api-key", "create", "--keys-file", str(file), "--name", "a", *words]
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert not file.exists()


def test_a_key_whose_reader_went_away_is_not_stored(file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pymotor", "api-key", "create", "--keys-file", str(file), "--name", "a"]
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
    assert not file.exists()


def test_a_key_that_was_shown_and_cannot_be_stored_is_told() -> None:
    with reachable_directory() as directory:
        (directory / "keys.json.lock").touch()
        (directory / "keys.json.lock").chmod(0o666)
        directory.chmod(0o555)
        ended = run_unprivileged("api-key", "create", "--keys-file", directory / "keys.json", "--name", "a")
        directory.chmod(0o777)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert "the key that was shown is not stored and good for nothing" in ended.stderr
