"""An RFB client: it sees a desktop and acts on it. Needs NumPy and Pillow (the extra `client`)."""

from relay.client.desktop import (
    ENCODINGS_HERE,
    ENCODINGS_THERE,
    RGBX,
    Desktop,
    connect,
    encodings_for,
)

__all__ = ["ENCODINGS_HERE", "ENCODINGS_THERE", "RGBX", "Desktop", "connect", "encodings_for"]
