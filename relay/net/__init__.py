"""Bytes on sockets: WebSocket framing, TLS, what is asked of the kernel, and streams of Trio's."""
