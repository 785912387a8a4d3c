"""`deskrelay mcp`: the computer tool for MCP clients."""
