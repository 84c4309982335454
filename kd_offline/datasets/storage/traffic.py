"""How much was moved over the network by this process, for commands to say."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Bytes of file contents, without headers and listings."""

    received: int = 0
    sent: int = 0
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, received: int = 0, sent: int = 0) -> None:
        """Count one request."""
        with self._lock:
            self.received += received
            self.sent += sent
            self.requests += 1

    @property
    def moved(self) -> int:
        """Bytes received and sent."""
        return self.received + self.sent


TRAFFIC = Traffic()
"""Of this process."""
