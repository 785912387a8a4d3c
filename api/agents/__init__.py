"""Chats that a language model works in."""
