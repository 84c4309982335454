"""Count the bytes that this process moves over the network, and require a minimum rate."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kd_offline.errors import StorageError, UsageError

_RATE = "KD_OFFLINE_MIN_RATE"
_DEFAULT_RATE = 1000.0  # bytes a second


@dataclass(slots=True)
class Traffic:
    """Bytes and requests of this process, without headers and listings."""

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
"""Counts of this process."""


class TransferRate:
    """The rate at which bytes arrive, over all transfers that run at the same time.

    Without a minimum, a server that sends one byte now and then could hold a command for ever:
    each single read stays within its time limit.
    """

    window = 60.0  # seconds over which the rate is taken

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = self._received = 0
        self._since = 0.0

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count bytes that arrive inside; time between transfers does not count."""
        with self._lock:
            if not self._running:
                self._since, self._received = time.monotonic(), 0
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def count_received(self, address: str, count: int) -> None:
        """Count ``count`` bytes that arrived.

        Raises
        ------
        StorageError
            Fewer arrived than the least rate.
        """
        with self._lock:
            self._received += count
            seconds = time.monotonic() - self._since
            if seconds < self.window:
                return
            rate = self._received / seconds
            self._since, self._received = time.monotonic(), 0
        least = minimum_rate()
        if rate < least:
            msg = (
                f"the server of {address!r} sent {rate:,.0f} bytes a second, less than "
                f"{least:,.0f}: try again later, or set {_RATE} to fewer bytes a second, 0 for any"
            )
            raise StorageError(msg)


TRANSFER_RATE = TransferRate()
"""Rate of this process."""


def minimum_rate() -> float:
    """Return the least bytes a second; ``KD_OFFLINE_MIN_RATE``, 1000 by default.

    Raises
    ------
    UsageError
        The environment's value is not a number of at least 0.
    """
    value = os.environ.get(_RATE, str(_DEFAULT_RATE))
    try:
        rate = float(value)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < math.inf:
        msg = f"{_RATE} is {value!r}, which is not a number of bytes a second: set it to 1000"
        raise UsageError(msg)
    return rate
