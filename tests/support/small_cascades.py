"""Texts of a few Einsums, small enough for oracles that try everything."""

from __future__ import annotations

GEMM = "cascade gemm\nrank M P E\ninput A[E, M] B[E, P]\noutput C[M, P]\nC[m, p] = A[e, m] * B[e, p]\n"
NORM = """cascade norm
rank M P
input X[M, P]
output Y[M, P]
S[p] = X[m, p]
Y[m, p] = X[m, p] / S[p]
"""
