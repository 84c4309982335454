import hashlib
import os
from pathlib import Path

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from kd_offline.datasets.storage.cache import Cache, default_cache
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import FileRecord


def record(data):
    return FileRecord(path="a", size=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_what_was_put_is_got(tmp_path):
    cache = Cache(tmp_path, 1000)
    assert cache.get(record(b"one")) is None
    cache.put(record(b"one"), b"one")
    assert cache.get(record(b"one")) == b"one"
    assert cache.usage() == (1, 3)
    cache.clear()
    assert cache.get(record(b"one")) is None
    assert cache.usage() == (0, 0)


def test_wrong_bytes_are_neither_kept_nor_given(tmp_path):
    cache = Cache(tmp_path, 1000)
    cache.put(record(b"one"), b"two")
    assert cache.usage() == (0, 0)
    cache.put(record(b"one"), b"one")
    (path,) = (path for path, _ in cache.entries())
    path.write_bytes(b"two")
    assert cache.get(record(b"one")) is None
    assert cache.usage() == (0, 0)


def test_the_oldest_give_way(tmp_path):
    cache = Cache(tmp_path, 100)
    files = [bytes([index]) * 20 for index in range(6)]
    for age, data in enumerate(files[:5]):
        cache.put(record(data), data)
        for path, _ in cache.entries():
            if path.name == record(data).sha256:
                os.utime(path, (1000 + age, 1000 + age))
    assert cache.get(files and record(files[0])) == files[0]  # used, so the youngest now
    cache.put(record(files[5]), files[5])
    there = [index for index, data in enumerate(files) if cache.get(record(data)) is not None]
    assert there == [0, 3, 4, 5]
    cache.put(record(bytes(200)), bytes(200))
    assert cache.get(record(bytes(200))) is None, "larger than the cache"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("x")
    cache = Cache(tmp_path / "file", 1000)
    cache.put(record(b"one"), b"one")
    assert cache.get(record(b"one")) is None


def test_the_environment_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("KD_OFFLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("KD_OFFLINE_CACHE_GB", "0.5")
    cache = default_cache()
    assert cache is not None
    assert (cache.root, cache.limit) == (tmp_path, 500_000_000)
    monkeypatch.setenv("KD_OFFLINE_CACHE_GB", "much")
    with pytest.raises(UsageError, match=r"'much'.*20"):
        default_cache()
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")
    assert default_cache() is None


@pytest.mark.parametrize(
    ("system", "environment", "folder"),
    [
        (Unix, {"XDG_CACHE_HOME": "/caches"}, "/caches/kd-offline"),
        (Unix, {"XDG_CACHE_HOME": "", "HOME": "/home/ada"}, "/home/ada/.cache/kd-offline"),
        (MacOS, {"HOME": "/Users/ada"}, "/Users/ada/Library/Caches/kd-offline"),
    ],
)
def test_a_cache_that_nobody_named_is_where_the_system_keeps_caches(
    system, environment, folder, monkeypatch
):
    for name in ("KD_OFFLINE_CACHE", "KD_OFFLINE_CACHE_GB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platformdirs, "PlatformDirs", system)
    assert default_cache().root == Path(folder)
