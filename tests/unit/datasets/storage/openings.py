"""Ways to open or push a dataset at a server, and the sentence that refuses one."""

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.sharing.share import push
from kd_offline.errors import KdOfflineError


def use(kind, url, dataset, monkeypatch):
    """Return what opens or pushes a dataset by an address of this kind at ``url``."""
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "HF_ENDPOINT": url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return {
        "http": lambda: ExpertBuffer.open(f"{url}/d.zarr"),
        "zip": lambda: ExpertBuffer.open(f"{url}/d.zip"),
        "s3": lambda: ExpertBuffer.open("s3://bucket/d.zarr"),
        "hf": lambda: ExpertBuffer.open("hf://datasets/lab/d"),
        "s3 push": lambda: push(dataset.path, "s3://bucket/d.zarr"),
        "hf push": lambda: push(dataset.path, "hf://datasets/lab/d"),
    }[kind]


def sentence(act, error=KdOfflineError):
    """Return the one sentence by which ``act`` is refused."""
    with pytest.raises(error) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)
