"""What is HTTP, whatever the route: the server, what stands in front of every route, and errors."""
