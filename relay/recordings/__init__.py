"""Recorded sessions: the file, and what is in it."""
