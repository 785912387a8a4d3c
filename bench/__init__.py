"""Measures the relay on loopback, beside a direct connection in the same run."""
