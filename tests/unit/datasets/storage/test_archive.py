"""The single-file form, and archives that were made to do harm."""

import io
import stat
import struct
import zipfile

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.sharing.share import pack, pull, push
from kd_offline.datasets.storage.archive import Archive, LocalRangeReader
from kd_offline.datasets.storage.sources import open_files
from kd_offline.errors import CorruptDatasetError, NotADatasetError, StorageError, UsageError
from kd_offline.testing.factories import tiny_dataset


@pytest.fixture(scope="module")
def packed(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "d.zarr.zip"
    pack(whole.path, path)
    return path


def test_an_archive_reads_as_its_folder(whole, packed):
    archive = ExpertBuffer.open(packed)
    assert archive.id == whole.id
    assert archive.names == whole.names
    for name in whole.names:
        assert np.array_equal(archive.read(name), whole.read(name))
    assert verify(packed).ok
    assert verify(packed, quick=True).ok


def test_a_member_is_one_positioned_read(whole, packed):
    reads = []

    class Counting(LocalRangeReader):
        def read_range(self, offset, length):
            reads.append(length)
            return super().read_range(offset, length)

    archive = Archive("counted", Counting(packed))
    archive.size("manifest.json")
    assert len(reads) == 2  # the end and the directory
    for file in whole.manifest.files:
        before = len(reads)
        assert archive.read(file.path, file) == whole.files.read(file.path)
        assert len(reads) == before + 1
        assert reads[-1] < file.size + 200


def test_packing_twice_gives_the_same_bytes(whole, packed, tmp_path):
    push(whole.path, tmp_path / "copy.zarr")
    pack(tmp_path / "copy.zarr")
    assert (tmp_path / "copy.zarr.zip").read_bytes() == packed.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_manifest_is_the_last_member_and_others_are_sorted(packed):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert names[:-1] == sorted(names[:-1])
    assert names[-1] == "manifest.json"


def test_an_archive_becomes_the_same_folder_again(whole, packed, tmp_path):
    pull(packed, tmp_path / "again.zarr")
    paths = sorted(whole.files.files())
    again = open_files(tmp_path / "again.zarr")
    assert sorted(again.files()) == paths
    assert all(again.read(path) == whole.files.read(path) for path in paths)


def test_a_file_in_the_way_stays(whole, tmp_path):
    (tmp_path / "d.zip").write_bytes(b"mine")
    with pytest.raises(StorageError, match="overwrite=True"):
        pack(whole.path, tmp_path / "d.zip")
    assert (tmp_path / "d.zip").read_bytes() == b"mine"
    pack(whole.path, tmp_path / "d.zip", overwrite=True)
    assert ExpertBuffer.open(tmp_path / "d.zip").id == whole.id
    with pytest.raises(UsageError, match=r"\.zip"):
        pack(whole.path, tmp_path / "d.tar")


def test_a_damaged_member_is_noticed(whole, packed, tmp_path):
    data = bytearray(packed.read_bytes())
    chunk = whole.files.read("steps/obs/c/1/0/0")
    data[data.find(chunk) + len(chunk) // 2] ^= 1
    (tmp_path / "bad.zip").write_bytes(data)
    report = verify(tmp_path / "bad.zip")
    assert [problem.where for problem in report.problems][:1] == ["steps/obs rows 8192 to 16383"]
    with pytest.raises(CorruptDatasetError, match="steps/obs rows 8192"):
        ExpertBuffer.open(tmp_path / "bad.zip").read("steps/obs")


def test_nothing_there_is_no_dataset(tmp_path):
    with pytest.raises(NotADatasetError, match="no dataset at"):
        ExpertBuffer.open(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(NotADatasetError, match="not an expert buffer"):
        ExpertBuffer.open(tmp_path / "other.zip")


def test_a_long_extra_field_costs_a_second_read(tmp_path):
    entry = zipfile.ZipInfo("a.bin")
    entry.extra = struct.pack("<2H", 0x7075, 300) + bytes(300)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, b"content")
    assert Archive("a", LocalRangeReader(tmp_path / "a.zip")).read("a.bin") == b"content"


def test_zip64_directories_are_read(tmp_path):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"c/{index}"), b"%d" % index)
    found = Archive("many", LocalRangeReader(path))
    assert sum(1 for _ in found.files()) == 65_600
    assert found.read("c/65599") == b"65599"


def test_sizes_in_zip64_fields_are_read(tmp_path):
    path = tmp_path / "wide.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"content")
    assert Archive("wide", LocalRangeReader(path)).read("a") == b"content"


def _archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (members or {"a": b"abc", "b": b"def"}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _named(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return buffer.getvalue()


def _compressed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(10_000))
    return buffer.getvalue()


def _of_kind(kind):
    buffer = io.BytesIO()
    entry = zipfile.ZipInfo("a")
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def _patched(data, place, form, value, *, after=b"PK\1\2"):
    out = bytearray(data)
    start = data.index(after) + place
    out[start : start + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(out)


END = b"PK\5\6"


def _shifted(data, by):
    """Every place in the archive is stated as if ``by`` bytes had been before it."""
    for after, place in ((b"PK\1\2", 42), (END, 16)):
        at = -1
        while (at := data.find(after, at + 1)) >= 0:
            stated = int.from_bytes(data[at + place : at + place + 4], "little")
            data = _patched(data, place, "<L", stated + by, after=data[at : at + place])
    return data


HOSTILE = {
    "compressed": (_compressed, "compressed or encrypted"),
    "bomb": (lambda: _patched(_archive(), 24, "<L", 1 << 31), "two sizes"),
    "encrypted": (lambda: _patched(_archive(), 8, "<H", 1), "compressed or encrypted"),
    "strongly encrypted": (lambda: _patched(_archive(), 8, "<H", 0x41), "compressed or encrypted"),
    "masked": (lambda: _patched(_archive(), 8, "<H", 0x2000), "compressed or encrypted"),
    "a link": (lambda: _of_kind(stat.S_IFLNK), "not a plain file"),
    "a device": (lambda: _of_kind(stat.S_IFBLK), "not a plain file"),
    "a pipe": (lambda: _of_kind(stat.S_IFIFO), "not a plain file"),
    "above": (lambda: _named("../a"), "with the name"),
    "within above": (lambda: _named("a/../../b"), "with the name"),
    "absolute": (lambda: _named("/etc/passwd"), "with the name"),
    "a drive": (lambda: _named("C:/a"), "with the name"),
    "hidden": (lambda: _named(".a"), "with the name"),
    "not ASCII": (lambda: _named("d\u00e9"), "with the name"),
    "control": (lambda: _named("a\nb"), "with the name"),
    "empty part": (lambda: _named("a//b"), "with the name"),
    "twice": (lambda: _archive().replace(b"b", b"a"), "twice"),
    "overlapping": (
        lambda: _patched(
            _archive(), 42, "<L", 0, after=_archive()[_archive().rindex(b"PK\1\2") :][:34]
        ),
        "overlaps",
    ),
    "longer than the file": (
        lambda: _patched(_patched(_archive(), 20, "<L", 1 << 30), 24, "<L", 1 << 30),
        "overlaps",
    ),
    "other disk": (lambda: _patched(_archive(), 34, "<H", 1), "compressed or encrypted"),
    "a comment": (lambda: _archive() + b"comment", "does not end"),
    "something before": (lambda: b"#!/bin/sh\n" + _archive(), "not where it should be"),
    "cut off": (lambda: _archive()[:-1], "does not end"),
    "two counts": (lambda: _patched(_archive(), 8, "<H", 3, after=END), "does not end"),
    "more members than are there": (
        lambda: _patched(_patched(_archive(), 8, "<H", 3, after=END), 10, "<H", 3, after=END),
        "directory is damaged",
    ),
    "fewer members than are there": (
        lambda: _patched(_patched(_archive(), 8, "<H", 1, after=END), 10, "<H", 1, after=END),
        "directory is damaged",
    ),
    "without its beginning": (
        lambda: _shifted(_archive(), 100),
        "not where it should be",
    ),
    "a name that ends early": (
        lambda: _named("manifest.json_b").replace(b"json_b", b"json\0b"),
        "with the name",
    ),
    "a directory elsewhere": (
        lambda: _patched(_archive(), 16, "<L", 0, after=END),
        "not where it should be",
    ),
    "a pretended zip64": (
        lambda: _patched(_archive(), 16, "<L", 0xFFFFFFFF, after=END),
        "not where it should be",
    ),
    "an empty file": (lambda: b"", "does not end"),
    "a text": (lambda: b"hello " * 100, "does not end"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_that_leaves_a_choice_is_refused(case, tmp_path):
    make, reason = HOSTILE[case]
    path = tmp_path / "hostile.zip"
    path.write_bytes(make())
    with pytest.raises(CorruptDatasetError, match=reason):
        list(Archive("hostile", LocalRangeReader(path)).files())
    assert list(tmp_path.iterdir()) == [path]


def test_more_members_than_the_manifest_can_list_are_refused_unseen(tmp_path, monkeypatch):
    path = tiny_dataset(tmp_path / "d.zarr").path
    pack(path)
    with zipfile.ZipFile(tmp_path / "d.zarr.zip", "a") as archive:
        for k in range(10_000):
            archive.writestr(zipfile.ZipInfo(f"steps/x/c/{k}"), b"")
    monkeypatch.setattr(Archive, "_member", None)
    with pytest.raises(CorruptDatasetError, match=r"it holds 10,0\d\d members, and its manifest"):
        ExpertBuffer.open(tmp_path / "d.zarr.zip")


def test_a_directory_of_more_bytes_than_a_manifest_has_is_not_read(tmp_path):
    path = tmp_path / "d.zip"
    with path.open("wb") as file:
        size = 1 << 30
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", END, 0, 0, 1, 1, size, 0, 0))
    with pytest.raises(CorruptDatasetError, match="or too large"):
        list(Archive("hostile", LocalRangeReader(path)).files())


@pytest.mark.parametrize(
    ("place", "form", "value"), [(0, "<L", 1), (6, "<H", 1), (8, "<H", 8), (26, "<H", 2)]
)
def test_a_member_that_contradicts_the_directory_is_refused(place, form, value, tmp_path):
    path = tmp_path / "hostile.zip"
    path.write_bytes(_patched(_archive(), place, form, value, after=b"PK\3\4"))
    with pytest.raises(CorruptDatasetError, match="not what its directory says"):
        Archive("hostile", LocalRangeReader(path)).read("a")


def test_every_cut_and_every_flipped_byte_of_a_directory_is_harmless(tmp_path):
    whole = _archive(**{"manifest.json": b"{}", "zarr.json": b"{}"})
    path = tmp_path / "hostile.zip"
    for index in range(len(whole)):
        for data in (
            whole[:index],
            whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :],
        ):
            path.write_bytes(data)
            archive = Archive("hostile", LocalRangeReader(path))
            try:
                for name in archive.files():
                    assert len(archive.read(name)) <= len(data)
            except CorruptDatasetError:
                pass
