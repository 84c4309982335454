"""Write requirements/*.txt: every package of a development installation, with its hashes.

pyproject.toml says what is wanted and constraints.txt in which versions. The hashes are those of
all files of a version, for every platform, so that one list serves all machines.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

DEMO = ("torch", "report")
EXTRAS = (*DEMO, "pettingzoo", "convert", "share", "onnx", "smax", "sweep", "track")
EXTRAS += ("xarray", "ray", "postgresql", "docs", "dev", "peers")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
# What torch asks for where it is built for CUDA, and the CPU build does not need.
CUDA = re.compile(r"(nvidia|cuda)-|triton=")


def compiled(*wanted: str) -> list[str]:
    """Return one block of lines per package: its version, its marker and all its hashes."""
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--no-header", *options]
    command += ["-c", "constraints.txt", *wanted]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return re.findall(r"^\S.*\n(?:[ \t].*\n)*", done.stdout, re.MULTILINE)


def extras(names: Iterable[str]) -> list[str]:
    """Return the options that ask for extras of the package."""
    return [part for name in names for part in ("--extra", name)]


def write(name: str, head: str, blocks: list[str]) -> None:
    """Write one list."""
    text = f"# {head}\n# Written by `make lock`.\n" + "".join(blocks)
    (FOLDER / f"{name}.txt").write_text(text, "utf-8")


def main() -> None:
    """Write the lists, torch in one of its own; a package of one list is in no later one."""
    everything = compiled(*extras(EXTRAS), "--group", "build", "--group", "apart", "pyproject.toml")
    demo = compiled(*extras(DEMO), "pyproject.toml")
    build = compiled("--group", "build")
    torch = [block for block in everything if block.startswith("torch==")]
    cuda = [block for block in everything if CUDA.match(block)]
    first = [*build, *torch, *cuda]
    demo = [block for block in demo if block not in first]
    rest = [block for block in everything if block not in [*first, *demo]]
    write("build", "What builds packages from source; installed first.", build)
    write("torch", "torch, where its CPU build is not to be had: see torch-cpu.txt.", torch)
    write("cuda", "What torch needs beside itself where it is built for CUDA.", cuda)
    write("demo", "What `make demo` needs beside these.", demo)
    write("development", "Everything else of a development installation.", rest)
    cpu = (FOLDER / "torch-cpu.txt").read_text("utf-8")
    version = torch[0].split()[0]
    if f"\n{version}+cpu " not in cpu:
        sys.exit(f"write the hashes of {version}+cpu into requirements/torch-cpu.txt by hand")


if __name__ == "__main__":
    main()
