"""The command line, `deskrelay`."""
