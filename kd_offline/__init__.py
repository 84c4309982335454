"""kd-offline: record multi-agent experts once, distil them many times."""

__version__ = "0.1.0"
