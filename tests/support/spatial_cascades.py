"""Cascades that the laws of the spatial simulator and of its mapper are held on, with small sizes."""

from __future__ import annotations

CASCADES = {
    "attention_3pass": {"E": 16, "F": 16, "M": 64, "P": 64},
    "attention_2pass": {"E": 16, "F": 8, "M": 48, "P": 24},
    "attention_1pass": {"E": 16, "F": 16, "M1": 4, "M0": 16, "M": 64, "P": 64},
    "channel_attention": {"C": 16, "D": 16, "T": 64},
    "gemm": {"M": 48, "N": 36, "K": 64},
}
