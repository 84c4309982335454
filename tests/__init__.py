"""Tests of the package; what must hold before PyTorch is imported."""

import os

# As in the command line: threads that wait must not spin on the cores of other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
