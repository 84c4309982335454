"""Optional libraries that a benchmark compares with."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def require(extra: str, *libraries: str) -> None:
    """Leave with one sentence, exit code 2, where a library is not installed."""
    if missing := [name for name in libraries if find_spec(name) is None]:
        print(
            f"error: this benchmark needs {', '.join(missing)}, which is not installed: "
            f"run pip install -e '.[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
