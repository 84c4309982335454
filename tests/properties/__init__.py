"""Properties that hold for whatever Hypothesis draws."""

import os

from hypothesis import settings


def examples(count):
    """Return settings for ``count`` examples, or as many times more as the environment says."""
    times = int(os.environ.get("KD_OFFLINE_EXAMPLES", "1"))
    return settings(max_examples=count * times, deadline=None)
