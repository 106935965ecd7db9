"""What the suites refuse before they work."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import DataError
from validation import compare


@pytest.mark.parametrize(
    ("suite", "options", "said"),
    [
        ("gpus", {}, "did you mean 'gpu'"),
        ("gpu", {"mesured": "a.csv"}, "unknown option 'mesured'; did you mean 'measured'"),
        ("seeds", {"published": "here"}, "unknown option 'published'; there is none"),
        ("gpu", {"measured": "missing.csv"}, "missing.csv: no such file or folder"),
    ],
)
def test_a_mistake_is_told(suite, options, said):
    with pytest.raises(DataError, match=said):
        compare(suite, **options)
