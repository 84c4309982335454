import getpass
import platform
import subprocess
import sys

from kd_offline.runs.provenance import provenance


def test_versions_and_machine_are_there():
    got = provenance()
    assert got.python == platform.python_version()
    assert {"numpy", "zarr", "torch"} <= set(got.packages)
    assert got.machine.cores >= 1


def test_no_host_user_or_path_is_told():
    text = provenance().model_dump_json()
    node = platform.node()
    assert not node or node not in text
    assert f'"{getpass.getuser()}"' not in text
    assert "/" not in text.replace(provenance().machine.processor, "")


def test_torch_is_asked_only_where_it_is_used():
    code = (
        "import sys; from kd_offline.runs.provenance import provenance; p = provenance(); "
        "assert 'torch' not in sys.modules; assert p.cpu_capability is None; print(p.threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr


def test_the_capability_of_torch_is_recorded():
    import torch

    got = provenance()
    assert got.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert got.threads == torch.get_num_threads()
