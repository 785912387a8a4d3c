"""What is served at which path: one file for each group of routes."""
