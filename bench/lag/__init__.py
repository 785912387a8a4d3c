"""How late a picture is behind a slow link: `python -m bench.lag`."""
