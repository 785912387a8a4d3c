"""Relays a VNC desktop to a browser over a WebSocket, reading RFB in both directions."""
