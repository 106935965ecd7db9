"""What the text of a cascade tells by itself: passes, points, operations, live footprint, least traffic."""
