"""Algorithms that train experts, by name.

A new one is one file with a :class:`~kd_offline.experts.algorithms.base.Algorithm` and one line
here, or in a package of its own one line of its ``pyproject.toml``::

    [project.entry-points."kd_offline.algorithms"]
    mine = "my_package.mine:ALGORITHM"

None of ours needs PyTorch before it builds networks, so that recipes are read without it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from kd_offline.registry import Registry
from kd_offline.user_code import calling

if TYPE_CHECKING:
    from kd_offline.experts.algorithms.base import Algorithm

_HERE = "kd_offline.experts.algorithms"

ALGORITHMS: Registry[Algorithm] = Registry(
    "algorithm",
    "kd_offline.algorithms",
    {
        "mappo": f"{_HERE}.mappo:ALGORITHM",
        "ippo": f"{_HERE}.ippo:ALGORITHM",
        "vdn": f"{_HERE}.vdn:ALGORITHM",
        "qmix": f"{_HERE}.qmix:ALGORITHM",
        "qatten": f"{_HERE}.qatten:ALGORITHM",
        "qplex": f"{_HERE}.qplex:ALGORITHM",
        "wqmix": f"{_HERE}.wqmix:ALGORITHM",
        "qtran": f"{_HERE}.qtran:ALGORITHM",
        "ddn": f"{_HERE}.ddn:ALGORITHM",
    },
)


def guarded(name: str, call: str, **where: object) -> AbstractContextManager[None]:
    """Return a context for a call into an algorithm; errors of a plug-in's code name its package.

    They become a ``UserCodeError``, see :mod:`kd_offline.user_code`. Our own algorithms need no
    context.
    """
    origin = ALGORITHMS.origin(name)
    code = f"the algorithm {name!r} of {origin}"
    return nullcontext() if origin.ours else calling(code, call, **where)
