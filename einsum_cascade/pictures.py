"""What all pictures share: colours that people with any colour vision tell apart, marks and lines beside them."""

from __future__ import annotations

# Source: M. Okabe, K. Ito, "Color Universal Design" (2008). Its yellow, which white paper swallows, is left out, and a
# grey added.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#57606a")
BLUE, RED, GREY = COLOURS[0], COLOURS[1], COLOURS[-1]
DARK, PALE, GRID = "#1c2430", "#c9d1d9", "#e6eaef"
# Nothing is told by colour alone. Five marks and four lines beside seven colours repeat together only after 35 and 28.
MARKS = "os^Dv"
LINES = ("-", "--", "-.", ":")
