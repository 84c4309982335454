"""What a stranger can do to a dataset: small edits that keep every digest right.

A case of ``cases.toml`` is a list of steps, each the name of a function below and its arguments.
The attacker knows the format: after the last step the file table, the id and the seal are made to
fit what was changed, unless the case changes them itself.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tomllib
from contextlib import suppress
from pathlib import Path

import numpy as np

from kd_offline.datasets.format import chunks, layout
from kd_offline.testing.factories import environment_spec, tiny_dataset

CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text("utf-8"))["case"]
SECRET = "nobody may read this"
HUGE = 1 << 30


def base(path):
    """Write the dataset that all cases begin with: 20 steps in chunks of 16, two agents."""
    before = layout.MAX_CHUNK_ROWS, layout.MIN_CHUNK_ROWS
    layout.MAX_CHUNK_ROWS = layout.MIN_CHUNK_ROWS = 16
    try:
        tiny_dataset(path, lengths=[9, 11], spec=environment_spec((6, 3), (5, 2)))
    finally:
        layout.MAX_CHUNK_ROWS, layout.MIN_CHUNK_ROWS = before


class Attack:
    """A dataset in the making of a stranger; beside it lies what it must not touch."""

    def __init__(self, good: Path, place: Path):
        self.root, self.outside = place / "d.zarr", place / "outside"
        shutil.copytree(good, self.root)
        self.outside.mkdir()
        (self.outside / "secret").write_text(SECRET)
        self.document = json.loads((self.root / "manifest.json").read_bytes())
        self.touched: set[str] = set()
        self.edits: list[tuple[bytes, bytes]] = []
        self.finished = self.foreign = False

    def carry_out(self, steps):
        for name, *arguments in steps:
            getattr(self, name)(*arguments)
        if not self.finished:
            self.write_manifest()
        return self.root

    def write_manifest(self):
        document = self.document
        for file in document["files"] if self.touched else ():
            path = self.root / file["path"]
            if file["path"] in self.touched and path.is_file():
                data = path.read_bytes()
                file.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        with suppress(KeyError, TypeError, ValueError):
            if not self.foreign:
                layout.update_identity(document)
        document.pop("manifest_digest", None)
        body = json.dumps(document, indent=1).encode().removesuffix(b"\n}")
        for old, new in self.edits:
            assert old in body, old
            body = body.replace(old, new, 1)
        self.put("manifest.json", sealed(body))

    def put(self, path, data):
        (self.root / path).write_bytes(data)

    # Steps on the manifest.

    def set(self, path, value):
        *parents, last = path
        holder = self.document
        for key in parents:
            holder = holder[key]
        holder[last] = value

    def unset(self, path):
        *parents, last = path
        holder = self.document
        for key in parents:
            holder = holder[key]
        del holder[last]

    def text(self, old, new):
        """Replace text of the manifest, before it is sealed."""
        self.edits.append((old.encode(), new.encode("utf-8")))

    def digits(self, old, new, count):
        self.text(old, new + "9" * count)

    def nested(self, levels):
        self.edits.append(
            (b'"description": ""', b'"description": ' + b"[" * levels + b"]" * levels)
        )

    def foreign_id(self):
        self.set(["id"], "sha256:" + "0" * 64)
        self.foreign = True

    def stop(self):
        """Leave the manifest as it lies there."""
        self.finished = True

    def manifest(self, text):
        """Make this text the manifest, sealed."""
        self.put("manifest.json", sealed(text.encode()))
        self.finished = True

    def manifest_bytes(self, data):
        self.put("manifest.json", data.encode("latin-1"))
        self.finished = True

    def manifest_of(self, size):
        """Make the manifest a file of this many bytes, most of them not there."""
        with (self.root / "manifest.json").open("r+b") as file:
            file.truncate(size)
        self.finished = True

    def cut_manifest(self, size):
        self.write_manifest()
        self.put("manifest.json", (self.root / "manifest.json").read_bytes()[:size])
        self.finished = True

    def entry(self, path, size=0, sha256="0" * 64):
        self.document["files"].append({"path": path, "size": size, "sha256": sha256})

    def repeat_entry(self, path):
        self.document["files"] += [f for f in self.document["files"] if f["path"] == path]

    def drop_entry(self, path):
        self.document["files"] = [f for f in self.document["files"] if f["path"] != path]

    def swap_entries(self, one, other):
        records = {file["path"]: file for file in self.document["files"]}
        records[one]["path"], records[other]["path"] = other, one

    def many_entries(self, count):
        self.document["files"] += [
            {"path": f"steps/x/{i}", "size": 0, "sha256": "0" * 64} for i in range(count)
        ]

    # Steps on files.

    def many_parts(self, count):
        part = {"code": 2, "episodes": 0, "steps": 0}
        self.document["splits"] |= {f"part-{k}": part for k in range(count)}

    def delete(self, path):
        target = self.root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    def file(self, path, text=""):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        self.put(path, text.encode("utf-8"))

    def listed_file(self, path, text=""):
        self.file(path, text)
        self.entry(path, len(text), hashlib.sha256(text.encode()).hexdigest())

    def odd_name(self, name):
        (self.root / os.fsdecode(name.encode("latin-1"))).write_bytes(b"")

    def deep_folders(self, levels):
        folder = os.open(self.root, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("x", dir_fd=folder)
            folder, before = os.open("x", os.O_RDONLY, dir_fd=folder), folder
            os.close(before)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.close(folder)

    def flatten(self):
        """Take out deep folders one level at a time: pytest's own clean-up would recurse."""
        deep, aside = self.root / "x", self.root / "y"
        while (deep / "x").is_dir():
            (deep / "x").rename(aside)
            deep.rmdir()
            aside.rename(deep)

    def link(self, path, target):
        """Replace a file or a folder by a link; ``{outside}`` is the place beside it."""
        with suppress(FileNotFoundError):
            self.delete(path)
        (self.root / path).symlink_to(target.format(outside=self.outside, root=self.root))

    def move_out(self, path, link=True):
        """Move a file or a folder outside and leave a link to it."""
        target = self.outside / "moved"
        (self.root / path).rename(target)
        if link:
            (self.root / path).symlink_to(target)

    def hard_to_open(self, path, kind):
        with suppress(FileNotFoundError):
            self.delete(path)
        if kind == "pipe":
            os.mkfifo(self.root / path)
        elif kind == "folder":
            (self.root / path).mkdir()
        else:
            import socket

            with socket.socket(socket.AF_UNIX) as server:
                here = Path.cwd()
                os.chdir((self.root / path).parent)  # names of sockets must be short
                try:
                    server.bind(Path(path).name)
                finally:
                    os.chdir(here)

    # Steps on the arrays; the file table follows.

    def metadata(self, array, path, value):
        """Set a field of an array's or group's zarr.json."""
        file = f"{array}/zarr.json".lstrip("/")
        document = json.loads((self.root / file).read_bytes())
        *parents, last = path
        holder = document
        for key in parents:
            holder = holder[key]
        holder.append(value) if last == "+" else holder.__setitem__(last, value)
        self.metadata_text(array, json.dumps(document))

    def metadata_text(self, array, text):
        file = f"{array}/zarr.json".lstrip("/")
        self.put(file, text.encode("utf-8"))
        self.touched.add(file)

    def nested_metadata(self, array, levels):
        self.metadata_text(array, "[" * levels)

    def long_metadata(self, array, size):
        file = self.root / array / "zarr.json"
        self.metadata_text(array, file.read_text() + " " * size)

    def grow(self, array, rows, chunk_rows):
        """Claim that an array has so many rows, in chunks of so many, each a frame of zeros."""
        spec = self.document["arrays"][array]
        spec["shape"][0] = rows
        self.metadata(array, ["shape"], spec["shape"])
        shape = [chunk_rows, *spec["shape"][1:]]
        self.metadata(array, ["chunk_grid", "configuration", "chunk_shape"], shape)
        size = int(np.prod(shape)) * np.dtype(spec["dtype"]).itemsize
        self.document["files"] = [
            f for f in self.document["files"] if not f["path"].startswith(f"{array}/c/")
        ]
        frame = zeros(size)
        for index in range(min(-(-rows // chunk_rows), 100)):
            path = layout.chunk_path(array, index, len(shape))
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            self.put(path, frame)
            self.entry(path, len(frame), hashlib.sha256(frame).hexdigest())

    def grow_steps(self, rows, chunk_rows):
        for name in list(self.document["arrays"]):
            if name.startswith("steps/"):
                self.grow(name, rows, chunk_rows)

    def long_chunks(self, rows):
        for name in self.document["arrays"]:
            if name.startswith("steps/"):
                self.metadata(name, ["chunk_grid", "configuration", "chunk_shape", 0], rows)

    def inflate_entries(self, array, size):
        """Claim that the files of an array are larger than they are."""
        for file in self.document["files"]:
            if file["path"].startswith(f"{array}/c/"):
                file["size"] = size

    def wide_taps(self, count, width):
        """Add embeddings whose chunks together are larger than any memory."""
        for index in range(count):
            name, shape = f"steps/embedding_{index}", [20, 2, width]
            spec = self.document["arrays"]["steps/embedding"] | {"shape": shape}
            self.document["arrays"][name] = spec
            text = layout.array_metadata("float16", tuple(shape), 16, ("R", "N", "H"), 1).decode()
            self.listed_file(f"{name}/zarr.json", text)
            for chunk in range(2):
                path, data = f"{name}/c/{chunk}/0/0", zeros(16 * 2 * width * 2)
                self.file(path)
                self.put(path, data)
                self.entry(path, len(data), hashlib.sha256(data).hexdigest())

    def frame(self, array, kind):
        """Put another zstd frame in the place of an array's first chunk."""
        path = f"{array}/c/0" + "/0" * (len(self.document["arrays"][array]["shape"]) - 1)
        good = (self.root / path).read_bytes()
        size = chunks.stated_size(good) or 0
        frames = {
            "bomb": zeros(HUGE),
            "bomb that states the right size": zeros(HUGE, stated=size),
            "bomb without a size": zeros(HUGE, stated=None),
            "short": zeros(size - 1, stated=size),
            "one byte more": zeros(size + 1),
            "without its end": good[:-5],
            "with more after it": good + b"more",
            "without a checksum": zeros(size, checksum=False),
            "in another codec": b"\x1f\x8b" + good[2:],
            "empty": b"",
            "raw": bytes(size),
            "reserved block": good[:9] + b"\xff\xff\xff" + good[12:],
            "size beyond 64 bits": b"\x28\xb5\x2f\xfd\xe4" + b"\xff" * 8 + good[12:],
            "skippable": b"\x50\x2a\x4d\x18" + struct.pack("<I", len(good)) + good,
        }
        self.put(path, frames[kind])
        self.touched.add(path)

    def value(self, array, index, value):
        """Change a stored value; only the rules can tell."""
        spec = self.document["arrays"][array]
        rows = json.loads((self.root / array / "zarr.json").read_bytes())
        size = rows["chunk_grid"]["configuration"]["chunk_shape"][0]
        count, tail = spec["shape"][0], spec["shape"][1:]
        whole = np.zeros((-(-count // size) * size, *tail), spec["dtype"])
        paths = [layout.chunk_path(array, i, len(spec["shape"])) for i in range(-(-count // size))]
        for i, path in enumerate(paths):
            assert not chunks.decode_chunk(
                (self.root / path).read_bytes(), whole[i * size : (i + 1) * size]
            )
        number = {"nan": np.nan, "inf": np.inf}.get(value, value)
        if whole.dtype == np.bool_ and number not in (0, 1):
            whole.view(np.uint8)[tuple(index)] = number
        else:
            whole[tuple(index)] = number
        for i, path in enumerate(paths):
            self.put(path, chunks.encode_chunk(whole[i * size : (i + 1) * size], 1))
            self.touched.add(path)
        values = hashlib.sha256(np.ascontiguousarray(whole[:count]).data).hexdigest()
        spec["digest"] = layout.content_digest(spec["dtype"], spec["shape"], values)

    # Zarr v2 metadata, which makes plain Zarr libraries run code.

    def version_2(self, array):
        """Add metadata of Zarr v2 with objects that are pickles, and a chunk that is one."""
        self.file(f"{array}/.zarray", json.dumps(PICKLED))
        payload = io.BytesIO()
        pickle.dump(Touch(str(self.outside / "ran")), payload)
        (self.root / array / "0").write_bytes(payload.getvalue())
        self.file(".zgroup", '{"zarr_format": 2}')
        self.file(".zmetadata", json.dumps({"zarr_consolidated_format": 1, "metadata": {}}))

    def version_2_alone(self, array):
        self.version_2(array)
        (self.root / "manifest.json").unlink()
        self.finished = True


PICKLED = {
    "zarr_format": 2,
    "shape": [1],
    "chunks": [1],
    "dtype": "|O",
    "compressor": None,
    "fill_value": None,
    "order": "C",
    "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
}


class Touch:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def sealed(body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    return body + f',\n "manifest_digest": "sha256:{digest}"\n}}\n'.encode()


def zeros(size: int, stated: int | None = -1, *, checksum: bool = True) -> bytes:
    """Return a zstd frame (RFC 8878) of so many zeros: four bytes for every 128 KiB.

    Its checksum is a wrong one: who gets as far as comparing it has decoded everything.
    """
    stated = size if stated == -1 else stated
    head = b"\x28\xb5\x2f\xfd"
    if stated is None:
        head += bytes([4 * checksum]) + b"\x98"  # no content size; a window of some MiB
    else:
        head += bytes([0xE0 | 4 * checksum]) + stated.to_bytes(8, "little")
    full, rest = divmod(size, 1 << 17)
    sizes = [1 << 17] * full + [rest] * bool(rest)
    blocks = [
        (int(i == len(sizes) - 1) | 1 << 1 | n << 3).to_bytes(3, "little") + b"\0"
        for i, n in enumerate(sizes)
    ]
    return head + b"".join(blocks) + bytes(4 * checksum)
