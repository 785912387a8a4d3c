"""What moves a session's bytes: the leg of each direction, and what feeds it."""
