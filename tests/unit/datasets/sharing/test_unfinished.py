"""Of several that write to one place one alone succeeds, and what was not finished is found."""

import multiprocessing
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from kd_offline.datasets import ExpertBuffer, verify, virtual_merge
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.sharing import share
from kd_offline.datasets.sharing.share import pack, push
from kd_offline.datasets.sharing.unfinished import unfinished
from kd_offline.datasets.storage.remote import Remote, open_store
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import lock_folder
from kd_offline.errors import KdOfflineError, StorageError, UsageError
from kd_offline.testing.factories import tiny_dataset
from tests.servers import answering


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Return two datasets with the same arrays and other values."""
    folder = tmp_path_factory.mktemp("shards")
    for k in range(2):
        tiny_dataset(folder / f"{k}.zarr", 8, seed=k)
    return [folder / f"{k}.zarr" for k in range(2)]


@pytest.fixture(params=["folder", "s3", "gs", "az"])
def place(request, tmp_path):
    """An empty place."""
    if request.param == "folder":
        return str(tmp_path / "there")
    request.getfixturevalue({"s3": "s3", "gs": "google", "az": "azure"}[request.param])
    return f"{request.param}://bucket/{tmp_path.name}"


def write(place, path, data):
    """Put a file into a place without any of our protocol."""
    if "://" in place:
        Remote(place, open_store(place), listable=True).write(path, data)
    else:
        (Path(place) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(place) / path).write_bytes(data)


def killed_before_the_manifest(monkeypatch, dataset, destination):
    """Push, and end where a process would be killed that has sent everything else."""

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(share, "_commit", kill)
        with pytest.raises(KeyboardInterrupt):
            push(dataset, destination)


def test_what_was_not_sent_completely_is_listed_and_goes_on(shards, place, monkeypatch):
    push(shards[0], f"{place}/shards/0.zarr")
    killed_before_the_manifest(monkeypatch, shards[1], f"{place}/shards/1.zarr")
    found = unfinished(place)
    (half,) = found.unfinished
    assert (found.datasets, half.address, half.kind) == (1, f"{place}/shards/1.zarr", "upload")
    manifest = ExpertBuffer.open(shards[1]).manifest
    assert half.files == len(manifest.files) + 1
    assert half.bytes > manifest.size_bytes
    assert 0 <= half.seconds < 300
    push(shards[1], f"{place}/shards/1.zarr")
    assert (unfinished(place).datasets, unfinished(place).unfinished) == (2, ())
    assert verify(f"{place}/shards/1.zarr").ok


@pytest.mark.parametrize("name", ["final", "steps/masks.zarr", "episodes/a/b"])
def test_finished_datasets_in_folders_named_like_groups_are_not_taken_for_parts(
    shards, place, name
):
    push(shards[0], f"{place}/{name}")
    found = unfinished(place)
    assert (found.datasets, found.unfinished) == (1, ())


def test_a_place_that_another_dataset_is_sent_to_is_left_alone(shards, place, monkeypatch):
    destination = f"{place}/0.zarr"
    killed_before_the_manifest(monkeypatch, shards[0], destination)
    with pytest.raises(StorageError, match=r"is being sent to .* nothing was written there"):
        push(shards[1], destination)
    push(shards[0], destination)
    assert ExpertBuffer.open(destination).id == ExpertBuffer.open(shards[0]).id
    assert verify(destination).ok


def test_what_is_there_is_replaced_on_request(shards, place, monkeypatch):
    killed_before_the_manifest(monkeypatch, shards[0], f"{place}/0.zarr")
    push(shards[1], f"{place}/0.zarr", overwrite=True)
    assert verify(f"{place}/0.zarr").ok
    assert ExpertBuffer.open(f"{place}/0.zarr").id == ExpertBuffer.open(shards[1]).id


def test_a_dataset_that_is_finished_meanwhile_stays(shards, place, monkeypatch):
    """Another one is sent and finished after this one has found the place empty."""
    clear = share._clear_destination

    def late(job, target, existing, overwrite):
        is_complete = clear(job, target, existing, overwrite)
        if not existing and job.source.address == str(shards[1]):
            with monkeypatch.context() as patched:
                # Where a shared disk has locks, the lock of the folder refuses it before.
                patched.setattr("kd_offline.datasets.sharing.targets.lock_folder", nullcontext)
                push(shards[0], f"{place}/0.zarr")
        return is_complete

    monkeypatch.setattr(share, "_clear_destination", late)
    with pytest.raises(StorageError, match=r"was finished at .* meanwhile and stays there"):
        push(shards[1], f"{place}/0.zarr")
    assert verify(f"{place}/0.zarr").ok
    assert ExpertBuffer.open(f"{place}/0.zarr").id == ExpertBuffer.open(shards[0]).id
    assert unfinished(place).unfinished == ()


def test_a_manifest_that_was_created_meanwhile_stays(shards, place, monkeypatch):
    check = share._check_destination

    def late(job, target):
        check(job, target)
        write(f"{place}/0.zarr", MANIFEST, b"of another one")

    monkeypatch.setattr(share, "_check_destination", late)
    with pytest.raises(StorageError, match=r"was finished at .* meanwhile"):
        push(shards[0], f"{place}/0.zarr")
    assert open_files(f"{place}/0.zarr").read(MANIFEST) == b"of another one"


def test_the_answer_that_a_manifest_is_there_may_be_about_the_own_one(shards, s3, monkeypatch):
    """A request that is repeated since its answer was lost finds what it wrote itself."""
    create = Remote.create
    monkeypatch.setattr(Remote, "create", lambda *given: create(*given) and False)
    push(shards[0], "s3://bucket/repeated/0.zarr")
    assert verify("s3://bucket/repeated/0.zarr").ok


def send(dataset, destination, barrier, results):
    """Push from a process of its own, at the same time as another one."""
    barrier.wait()
    try:
        push(dataset, destination)
        results.put((str(dataset), ""))
    except StorageError as error:
        results.put((str(dataset), str(error)))


@pytest.mark.parametrize("locks", [True, False])
def test_of_two_processes_that_race_one_wins_whole(shards, tmp_path, locks, monkeypatch):
    if not locks:  # as on a shared disk that has none
        monkeypatch.setattr("kd_offline.datasets.sharing.targets.lock_folder", nullcontext)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    given = (str(tmp_path / "0.zarr"), barrier, results)
    racers = [context.Process(target=send, args=(shard, *given)) for shard in shards]
    for racer in racers:
        racer.start()
    ended = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(60)
    (winner,) = [shard for shard, error in ended.items() if not error]
    assert all("\n" not in error for error in ended.values())
    assert ExpertBuffer.open(tmp_path / "0.zarr").id == ExpertBuffer.open(winner).id
    assert verify(tmp_path / "0.zarr").ok
    assert all(verify(shard).ok for shard in shards)


def repeat(shards, number, destination, barrier, results):
    """Push each dataset in turn, with and without overwriting, and list what is there."""
    barrier.wait()
    unforeseen = []
    for k in range(24):
        try:
            push(shards[(number + k) % 2], destination, overwrite=bool((number + k) // 2 % 2))
            unfinished(Path(destination).parent)
        except KdOfflineError as error:
            unforeseen += [str(error)] if "\n" in str(error) else []
        except Exception as error:
            unforeseen.append(repr(error))
    results.put(unforeseen)


def test_whatever_others_do_on_a_disk_without_locks_is_one_sentence(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_offline.datasets.sharing.targets.lock_folder", nullcontext)
    context, destination = multiprocessing.get_context("fork"), str(tmp_path / "there" / "0.zarr")
    barrier, results = context.Barrier(4), context.Queue()
    racers = [
        context.Process(target=repeat, args=(shards, number, destination, barrier, results))
        for number in range(4)
    ]
    for racer in racers:
        racer.start()
    ended = [results.get(timeout=300) for _ in racers]
    for racer in racers:
        racer.join()
    assert ended == [[]] * 4
    push(shards[0], destination, overwrite=True)
    assert verify(destination).ok
    assert unfinished(tmp_path / "there").unfinished == ()


@pytest.mark.parametrize(("scheme", "server"), [("s3", "s3"), ("gs", "google"), ("az", "azure")])
def test_of_writers_that_race_to_a_bucket_one_wins_whole(shards, scheme, server, request):
    request.getfixturevalue(server)
    place = f"{scheme}://bucket/raced/0.zarr"
    barrier, errors = threading.Barrier(4), []

    def race(shard):
        barrier.wait()
        try:
            push(shard, place)
        except StorageError as error:
            errors.append(str(error))

    racers = [threading.Thread(target=race, args=(shards[k % 2],)) for k in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(errors) >= 2
    assert verify(place).ok
    assert unfinished(f"{scheme}://bucket/raced").unfinished == ()


def test_a_bucket_of_google_gives_an_archive_in_ranges(shards, tmp_path, google):
    pack(shards[0], tmp_path / "d.zarr.zip")
    store = Remote("gs://bucket/run", open_store("gs://bucket/run"), listable=True)
    store.write("d.zarr.zip", (tmp_path / "d.zarr.zip").read_bytes())
    assert verify("gs://bucket/run/d.zarr.zip").ok
    with pytest.raises(StorageError, match="there is no such bucket"):
        push(shards[0], "gs://absent/0.zarr")


def test_a_virtual_merge_is_written_to_a_bucket_beside_its_shards(shards, s3):
    for k in range(2):
        push(shards[k], f"s3://bucket/run/shards/{k}.zarr")
    places = [f"s3://bucket/run/shards/{k}.zarr" for k in range(2)]
    manifest = virtual_merge(places, "s3://bucket/run/whole.zarr")
    assert [shard.address for shard in manifest.shards] == ["shards/0.zarr", "shards/1.zarr"]
    assert verify("s3://bucket/run/whole.zarr").ok
    assert virtual_merge(places, "s3://bucket/run/whole.zarr").id == manifest.id
    with pytest.raises(StorageError, match="there is another dataset"):
        virtual_merge(places[::-1], "s3://bucket/run/whole.zarr")
    assert unfinished("s3://bucket/run").datasets == 3
    assert verify("s3://bucket/run/whole.zarr", quick=True).ok


def test_a_store_without_conditions_is_refused_until_it_is_said_to_be_used_alone(
    shards, monkeypatch
):
    def refuse(request):
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.command == "PUT" and request.headers.get("If-None-Match"):
            request.send_response(501)
        else:
            request.send_response(200)
            body = b'<?xml version="1.0"?><ListBucketResult></ListBucketResult>'
        body = b"" if request.command != "GET" else body
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with answering(refuse) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match=r"only where there is none.* overwrite=True"):
            push(shards[0], "s3://bucket/0.zarr")


def test_recordings_and_other_parts_are_told_apart(shards, tmp_path, place):
    write(f"{place}/a.zarr", "recording.json", b"{}")
    write(f"{place}/a.zarr", "steps/obs/c/0/0/0", b"123")
    write(f"{place}/deep/b.zarr", "steps/obs/zarr.json", b"{}")
    write(f"{place}/deep/b.zarr", "masks/full/c/0/0", b"1")
    write(place, "notes.txt", b"of no dataset")
    found = {p.address: (p.kind, p.files, p.bytes) for p in unfinished(place).unfinished}
    assert found == {
        f"{place}/a.zarr": ("recording", 2, 5),
        f"{place}/deep/b.zarr": ("files", 2, 3),
    }
    assert [p.files for p in unfinished(f"{place}/a.zarr").unfinished] == [2]


def test_folders_of_parts_beside_an_output_are_listed_as_a_whole(place):
    write(f"{place}/d.zarr.parts/1.zarr", MANIFEST, b"{}")
    write(f"{place}/d.zarr.parts/2.zarr", "recording.json", b"{}")
    write(f"{place}/d.zarr.parts/2.zarr", "recording.blocks/0123", b"12345")
    write(f"{place}/run.seeds/seed-3", "run.json", b"{}")
    write(f"{place}/run.seeds", "task-2.log", b"1")
    write(f"{place}/e.zarr.0123abcd.unsent", MANIFEST, b"{}")
    write(f"{place}/mine.parts/a.zarr", MANIFEST, b"{}")  # whose name a person chose
    write(f"{place}/mine.parts/1.zarr", MANIFEST, b"{}")
    found = unfinished(place)
    assert found.datasets == 2
    assert {p.address: (p.kind, p.files, p.bytes, p.busy) for p in found.unfinished} == {
        f"{place}/d.zarr.parts": ("parts", 3, 9, False),
        f"{place}/run.seeds": ("seeds", 2, 3, False),
        f"{place}/e.zarr.0123abcd.unsent": ("unsent", 1, 2, False),
    }
    (itself,) = unfinished(f"{place}/d.zarr.parts").unfinished
    assert (itself.address, itself.kind) == (f"{place}/d.zarr.parts", "parts")


def test_what_a_process_works_on_is_said_to_be_busy(tmp_path):
    write(f"{tmp_path}/d.zarr", "recording.json", b"{}")
    with lock_folder(tmp_path / "d.zarr"):
        assert [place.busy for place in unfinished(tmp_path).unfinished] == [True]
    assert [place.busy for place in unfinished(tmp_path).unfinished] == [False]


def test_places_that_cannot_be_listed_are_refused(tmp_path):
    for address in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match="there is nothing at"):
            unfinished(address)
    (tmp_path / "d.zarr.zip").touch()
    with pytest.raises(UsageError, match="is a file: give the folder"):
        unfinished(tmp_path / "d.zarr.zip")
    for address in ("https://example.org/d", "hf://datasets/lab/data"):
        with pytest.raises(UsageError, match="on a web server"):
            unfinished(address)


def test_parts_in_a_folder_whose_name_ends_alike_are_found_and_that_folder_is_not(tmp_path):
    write(str(tmp_path), "my.parts/run.parts/1.zarr/zarr.json", b"{}")
    (place,) = unfinished(tmp_path).unfinished
    assert (place.address, place.kind) == (str(tmp_path / "my.parts" / "run.parts"), "parts")
