"""Reaching a desktop at its address, and logging in to it."""
