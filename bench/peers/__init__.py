"""The relays that are measured: ours and its peers."""
