"""`python -m validation` is the command `cascade`."""

from .entrance import main

main()
