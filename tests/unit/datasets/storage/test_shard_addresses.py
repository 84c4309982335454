"""A manifest leads no further than the folder in which its dataset lies."""

import pytest

from kd_offline.datasets.storage.shard_addresses import ALLOWED, resolve_shard, stated_address
from kd_offline.errors import CorruptDatasetError, UsageError


@pytest.mark.parametrize(
    ("whole", "stated", "address"),
    [
        ("s3://bucket/run/whole.zarr", "shards/1.zarr", "s3://bucket/run/shards/1.zarr"),
        ("s3://bucket/whole.zarr/", "1.zarr", "s3://bucket/1.zarr"),
        ("https://host/a/b.zarr@sha256:" + "0" * 64, "1.zarr.zip", "https://host/a/1.zarr.zip"),
        (
            "hf://datasets/me/data@main/whole.zarr",
            "1.zarr",
            "hf://datasets/me/data@main/1.zarr",
        ),
    ],
)
def test_relative_addresses_lead_beside_the_dataset(whole, stated, address):
    assert resolve_shard(whole, stated) == address


def test_relative_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_shard("run/whole.zarr", "1.zarr") == str(tmp_path / "run" / "1.zarr")


@pytest.mark.parametrize(
    "stated",
    [
        "file:///etc",
        "../other/1.zarr",
        "shards/../../1.zarr",
        "shards//1.zarr",
        "./1.zarr",
        "~/1.zarr",
        "s3://bucket/../1.zarr",
        "https://host/%2e%2e/1.zarr",
        "https://host/1.zarr?to=elsewhere",
        "ftp://host/1.zarr",
    ],
)
def test_what_is_no_address_is_refused_whatever_is_allowed(stated, monkeypatch):
    monkeypatch.setenv(ALLOWED, "/, s3://bucket, https://host, ftp://host, file:///")
    with pytest.raises(CorruptDatasetError, match="which is no address"):
        resolve_shard("/data/whole.zarr", stated)


@pytest.mark.parametrize(
    "stated",
    ["/etc", "http://169.254.169.254/latest", "s3://other/1.zarr", "hf://datasets/you/data"],
)
@pytest.mark.parametrize("whole", ["/data/whole.zarr", "s3://bucket/whole.zarr"])
def test_other_places_are_read_only_if_the_user_names_them(whole, stated, monkeypatch):
    monkeypatch.setenv(ALLOWED, "s3://othe, /etc2, http://169.254.169")
    with pytest.raises(UsageError, match=f"may not choose which other places .* set {ALLOWED}"):
        resolve_shard(whole, stated)
    monkeypatch.setenv(ALLOWED, f"s3://unused, {stated}/")
    assert resolve_shard(whole, stated) == stated


def test_a_bucket_or_repository_has_nothing_beside_it():
    for whole in ("s3://bucket", "hf://datasets/me/data", "https://host/"):
        with pytest.raises(CorruptDatasetError, match="where there is no folder"):
            resolve_shard(whole, "1.zarr")


def test_a_link_out_of_the_folder_needs_permission_as_well(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "shards").symlink_to(tmp_path / "secret")
    whole = str(tmp_path / "run" / "whole.zarr")
    with pytest.raises(UsageError, match="which other places are read"):
        resolve_shard(whole, "shards/1.zarr")
    monkeypatch.setenv(ALLOWED, str(tmp_path))
    assert resolve_shard(whole, "shards/1.zarr").endswith("run/shards/1.zarr")


@pytest.mark.parametrize(
    "shard", ["s3://b/my run/1.zarr", "s3://b/a%20b/1.zarr", "https://host//1.zarr"]
)
def test_what_no_reader_takes_is_not_stated(shard):
    with pytest.raises(UsageError, match=r"cannot be listed, since .* or merge with copying"):
        stated_address("s3://bucket/whole.zarr", shard)


@pytest.mark.parametrize(
    ("whole", "shard", "stated"),
    [
        ("s3://b/run/whole.zarr", "s3://b/run/shards/1.zarr/", "shards/1.zarr"),
        ("s3://b/run/whole.zarr", "s3://b/run/1.zarr@sha256:" + "0" * 64, "1.zarr"),
        ("s3://b/run/whole.zarr", "s3://b/run2/1.zarr", "s3://b/run2/1.zarr"),
        ("s3://b", "s3://b/1.zarr", "s3://b/1.zarr"),
        ("s3://b/whole.zarr", "/data/1.zarr", "/data/1.zarr"),
        ("/data/whole.zarr", "s3://b/1.zarr", "s3://b/1.zarr"),
        ("/data/whole.zarr", "/data/shards/1.zarr", "shards/1.zarr"),
        ("/data/whole.zarr", "/data/odd name/1.zarr", "/data/odd name/1.zarr"),
        ("/data/run/whole.zarr", "/data/1.zarr", "/data/1.zarr"),
    ],
)
def test_addresses_are_relative_where_they_can_be(whole, shard, stated):
    assert stated_address(whole, shard) == stated
