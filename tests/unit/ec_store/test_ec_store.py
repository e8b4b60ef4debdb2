"""`pymotor ec-store` on real directories: what is told, what goes, and what is never touched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pymotor.cli import main
from pymotor.ec_store import Limits, NotAStoreError, Store, collect
from pymotor.ec_store.collection import choose
from pymotor.ec_store.layout import FILE, is_plain_name
from pymotor.ec_store.reading import DAY, Reads, last_use
from pymotor.engines.sim.stores import DirectoryEmbeddingStore

HOUR = 3600.0
WORDS = 100


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "ec"


def put(store: Path, identifier: str, *, unused: float = 0.0) -> Path:
    """A good item that was written and read so many seconds ago."""
    DirectoryEmbeddingStore(store).save(identifier, np.arange(WORDS, dtype=np.uint64))
    return age(store / identifier / FILE, unused)


def age(file: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(file, (then, then))
    return file


def spoil(store: Path, identifier: str, content: bytes, *, unused: float) -> Path:
    file = store / identifier / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return age(file, unused)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["ec-store", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


def test_status_tells_what_is_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = put(store, "a" * 64, unused=2 * HOUR).read_bytes()
    put(store, "lora:b", unused=HOUR)
    spoil(store, "cut", good[:-8], unused=HOUR)
    spoil(store, "empty", b"", unused=HOUR)
    spoil(store, "other", b"x" * 500, unused=HOUR)
    spoil(store, "long", good + b"x", unused=HOUR)
    spoil(store, "not a name", good, unused=HOUR)
    (store / ("c" * 64)).mkdir()
    (store / "somebodys").mkdir()
    (store / "linked").symlink_to("/etc")
    status, found = said(capsys, "status", str(store))
    assert status == 1
    assert (found["items"], found["foreign"], found["empty_directories"]) == (6, 2, 1)
    assert found["names_not_plain"] == ["not a name"]
    problems = {item["identifier"]: item["problem"] for item in found["corrupt"]}
    assert problems.keys() == {"cut", "empty", "other", "long"}
    assert problems["cut"] == f"half-written: {len(good) - 8} of {len(good)} bytes"
    assert time.time() - found["written"]["oldest"] == pytest.approx(2 * HOUR, abs=60)


def test_only_what_no_request_can_use_goes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, recent = put(store, "old", unused=2 * HOUR), put(store, "recent", unused=HOUR / 2)
    written_long_ago = put(store, "read-lately", unused=2 * HOUR)
    os.utime(written_long_ago, (time.time() - 60, time.time() - 2 * HOUR))
    before = [file.stat() for file in (old, recent)]
    status, found = said(capsys, "gc", str(store), "--max-bytes", "0", "--dry-run")
    assert (status, found["items"], old.exists()) == (1, 1, True)
    assert [file.stat().st_ctime_ns for file in (old, recent)] == [one.st_ctime_ns for one in before]
    status, found = said(capsys, "gc", str(store), "--max-bytes", "0", "--older-than", "1")
    assert (status, found["items"], found["items_left"], found["in_use"]) == (1, 1, 2, 2)
    assert found["over_limit"] == found["bytes_left"] > 0
    assert not old.exists()
    assert recent.exists()
    assert written_long_ago.exists()
    assert old.parent.exists(), "an encoder may be about to write there"


def test_the_least_recently_used_go_first(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [put(store, f"item-{number}", unused=(9 - number) * HOUR) for number in range(5)]
    size = files[0].stat().st_size
    status, found = said(capsys, "gc", str(store), "--max-bytes", str(2 * size))
    assert (status, found["items"], found["bytes_left"]) == (0, 3, 2 * size)
    assert [file.exists() for file in files] == [False, False, False, True, True]


def test_what_nobody_can_read_goes_though_it_is_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "good")
    cut = spoil(store, "cut", b"123", unused=300)
    os.utime(cut, (time.time(), time.time() - 300))
    writing = spoil(store, "writing", b"123", unused=0)
    leftover = store / "good" / ".tmpAb12"
    leftover.write_bytes(b"1")
    age(leftover, 2 * HOUR)
    status, found = said(capsys, "gc", str(store))
    assert (status, found["corrupt"], found["leftovers"]) == (0, 1, 1)
    assert not cut.exists()
    assert not leftover.exists()
    assert writing.exists()


def test_what_is_not_a_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home" / "empty").mkdir(parents=True)
    put(tmp_path / "ec", "item", unused=2 * HOUR)
    (tmp_path / "link").symlink_to(tmp_path / "ec")
    for path in ("/", "/etc", tmp_path / "home", tmp_path / "link", tmp_path / "missing", tmp_path / "ec/item" / FILE):
        for action in (["status"], ["gc", "--older-than", "0", "--engines-stopped"]):
            assert main(["ec-store", action[0], str(path), *action[1:]]) == 2
    assert (tmp_path / "ec" / "item" / FILE).exists()
    assert (tmp_path / "home" / "empty").exists()
    assert "symbolic link" in capsys.readouterr().err


def test_links_and_strange_names_are_never_touched(tmp_path: Path, store: Path) -> None:
    outside = put(tmp_path / "outside", "item", unused=2 * HOUR)
    put(store, "good", unused=2 * HOUR)
    (store / "linked").symlink_to(outside.parent)
    (store / "file-linked").mkdir()
    (store / "file-linked" / FILE).symlink_to(outside)
    strange = spoil(store, ".hidden", b"", unused=2 * HOUR)
    assert main(["ec-store", "gc", str(store), "--older-than", "0", "--max-bytes", "0", "--engines-stopped"]) == 0
    assert outside.exists()
    assert strange.exists()
    assert not (store / "good").exists()


@pytest.mark.parametrize("name", ["..", ".", ".x", "a/b", "", "a b", "ä", "a\n", "x" * 256])
def test_names_that_are_not_plain(name: str) -> None:
    assert not is_plain_name(name)


def test_sizes_and_seconds_are_checked(store: Path) -> None:
    for words in (["--max-bytes", "-1"], ["--max-bytes", "1X"], ["--older-than", "nan"], ["--older-than", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(["ec-store", "gc", str(store), *words])
        assert ended.value.code == 2


def test_what_a_time_of_access_is_worth() -> None:
    now = 10 * DAY
    read_after_change = {"read": now - 2 * HOUR, "written": now - 5 * HOUR, "changed": now - 5 * HOUR, "now": now}
    assert last_use(reads=Reads.EACH, **read_after_change) == now - 2 * HOUR
    assert last_use(reads=Reads.FIRST, **read_after_change) == now, "later reads of that day went unrecorded"
    assert last_use(reads=Reads.NONE, **read_after_change) == now
    not_read_since = {"read": now - 2 * HOUR, "written": now - 5 * HOUR, "changed": now - HOUR, "now": now}
    assert last_use(reads=Reads.FIRST, **not_read_since) == now - 2 * HOUR
    long_ago = {"read": now - 3 * DAY, "written": now - 4 * DAY, "changed": now - 4 * DAY, "now": now}
    assert last_use(reads=Reads.FIRST, **long_ago) == now - 2 * DAY


def test_where_reads_are_not_seen_nothing_goes(store: Path) -> None:
    put(store, "old", unused=9 * DAY)
    with Store(store) as opened:
        contents, now = opened.contents(), time.time()
    limits = Limits(older_than=1.0, max_bytes=0, window=HOUR)
    assert choose(contents, limits, Reads.NONE, now).items == ()
    assert choose(contents, limits, Reads.NONE, now).in_use == 1
    stopped = Limits(older_than=1.0, window=HOUR, engines_stopped=True)
    assert len(choose(contents, stopped, Reads.NONE, now).items) == 1


def test_reads_between_two_collections_are_seen(store: Path) -> None:
    """Where the kernel records only first reads (relatime), each collection makes the next read a first one."""
    files = [put(store, name, unused=HOUR) for name in ("read", "unread")]
    limits = Limits(older_than=0.0, window=1.5)
    with Store(store) as opened:
        opened.try_reads()
        if opened.reads is Reads.NONE:
            pytest.skip("this file system does not record reads")
    embeddings = DirectoryEmbeddingStore(store)
    for name in ("read", "unread"):
        assert embeddings.load(name) is not None
    with Store(store) as opened:
        assert collect(opened, limits).items == 0
    deadline = time.monotonic() + 60
    while files[1].exists():
        assert embeddings.load("read") is not None
        with Store(store) as opened:
            collect(opened, limits)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert files[0].exists()


def test_looking_does_not_count_as_a_read(store: Path) -> None:
    file = put(store, "item", unused=3 * DAY)
    before = file.stat().st_atime_ns
    with Store(store) as opened:
        opened.contents()
    assert file.stat().st_atime_ns == before


def test_what_was_used_since_the_look_stays(store: Path) -> None:
    file = put(store, "item", unused=2 * DAY)
    with Store(store) as opened:
        (item,) = opened.contents().items
        os.utime(file, (time.time(), file.stat().st_mtime))
        assert not opened.remove(item)
    assert file.exists()


def test_an_empty_directory_is_a_store_before_its_first_item(store: Path) -> None:
    store.mkdir()
    assert main(["ec-store", "gc", str(store), "--max-bytes", "1G"]) == 0
    (store / "photos").mkdir()
    with Store(store) as opened, pytest.raises(NotAStoreError):
        opened.contents()


def test_nothing_of_others_goes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a real item somebody keeps work of his own, with a temporary file that looks like a writer's."""
    put(store, "a" * 64)
    homework = store / "homework"
    homework.mkdir()
    (store / "empty").mkdir()
    for name in ("thesis.txt", ".tmpnotes"):
        (homework / name).write_text("mine")
        age(homework / name, 1000 * HOUR)
    alone = store / "alone" / ".tmpnotes"
    alone.parent.mkdir()
    alone.write_text("mine")
    age(alone, 1000 * HOUR)
    said(capsys, "gc", str(store), "--older-than", "1", "--infer-timeout", "1", "--engines-stopped")
    assert sorted(path.name for path in homework.iterdir()) == [".tmpnotes", "thesis.txt"]
    assert alone.exists()
    assert (store / "empty").is_dir()
