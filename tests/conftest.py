"""How random examples are drawn: the same in every run, unless new ones are asked for.

A run of the tests says something about the code, not about luck: each test draws the examples that follow from its
own text. `make search` draws new ones; what it finds becomes an `@example` or a test of its own.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
