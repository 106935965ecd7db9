"""`python -m validation` is the command `cascade`."""

from .cli import main

main()
