"""RFB, the VNC protocol (RFC 6143 and the community specification), without I/O.

Standard library only: no sockets, no clock, no logging. Framing and rules, both directions.
"""
