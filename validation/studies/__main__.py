"""`python -m validation.studies [NAME ...]`: compute the co-design studies in full and write their tables."""

from __future__ import annotations

import sys

from .results import STUDIES, write

if __name__ == "__main__":
    for name in sys.argv[1:] or STUDIES:
        print(write(name))
