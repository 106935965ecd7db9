"""How many examples property tests draw: some in every run, many more where `make search` asks for new ones."""

from __future__ import annotations

import os

# Times as many as in a usual run.
MORE = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "search" else 1
