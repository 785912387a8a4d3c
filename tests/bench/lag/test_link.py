"""The slow link: it is there, and nothing of it stays."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bench.lag.link import NotPermitted, inside, slow_link
from tests.labs.namespaces import before, namespaces

__all__ = ["before"]  # the fixture


class TestLink:
    def test_both_ends_reach_each_other_and_nothing_stays(self, before: set[str]) -> None:
        with slow_link("cubic") as link:
            assert namespaces() - before > {link.desktop, link.viewer}
            accept = inside(link.desktop, sys.executable, "-c", _ACCEPT)
            connect = inside(link.viewer, sys.executable, "-c", _CONNECT)
            with subprocess.Popen(accept, stdout=subprocess.PIPE) as accepting:
                assert accepting.stdout is not None
                accepting.stdout.readline()
                subprocess.run(connect, check=True)
            assert accepting.returncode == 0
        assert namespaces() == before

    def test_an_error_takes_it_down(self, before: set[str]) -> None:
        with pytest.raises(ZeroDivisionError), slow_link("cubic"):
            raise ZeroDivisionError
        assert namespaces() == before

    def test_a_link_that_fails_half_way_is_taken_down(self, before: set[str]) -> None:
        with pytest.raises(NotPermitted, match="nonsense"), slow_link("nonsense"):
            pass
        assert namespaces() == before

    def test_a_signal_takes_it_down(self, before: set[str]) -> None:
        command = [sys.executable, "-m", "bench.lag", "--cases", "synthetic-requests"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # The table's head: the link stands.
            while not process.stdout.readline().startswith("|---"):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            process.communicate()
        assert process.returncode == 1
        assert namespaces() == before


_ACCEPT = """
import socket
with socket.create_server(("10.77.1.2", 7001)) as listener:
    print("listening", flush=True)
    listener.accept()[0].close()
"""
_CONNECT = "import socket; socket.create_connection(('10.77.1.2', 7001), 10).close()"
