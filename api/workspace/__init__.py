"""`deskrelay agent`: the workspace agent, which runs beside a desktop on another machine."""
