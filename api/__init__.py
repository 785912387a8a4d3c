"""The server: HTTP and the 101 on Hypercorn's Trio worker, tokens, chats, and the command line."""
