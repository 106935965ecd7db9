"""Recurrences as people write them, beyond the zoo: each has chunks."""

from __future__ import annotations

# Mamba (arXiv 2312.00752), HGRN (2311.04823), minGRU (2410.01201) and Longhorn (2407.14207) under their names; the
# others each stand for a way of writing: groups of heads, normalisers, momentum, copies of a state, conditions.
# In the last ones several tensors of a chunk wait for each other: DeltaProduct (arXiv 2502.10297) with two Householder
# steps a token, RWKV-7 with two updates of low rank, momentum with a delta term, several keys at once, and states that
# read each other; and what is alike along a rank over which is summed.
TEXTS = {
    "both": """cascade both
rank E F T
input Q[E, T] K[E, T] V[F, T] G[T] U[E]
output O[F, T]
A[0, e, f] = 0
B[0, f, e] = 0
iterate t {
  A[t+1, e, f] = A[t, e, f] * exp(-exp(G[t])) + K[e, t] * V[f, t]
  B[t+1, f, e] = B[t, f, e] + K[e, t] * V[f, t] * 2 - V[f, t] * U[e]
  O[f, t] = Q[e, t] * (A[t+1, e, f] - B[t, f, e] * U[e]) + Q[e, t] * B[t+1, f, e] * 3
}
""",
    "cummax": """cascade cummax
rank E T
input X[E, T]
output O[E, T] P[E, T]
M[0, e] = -inf
L[0, e] = inf
iterate t {
  M[t+1, e] = max(M[t, e], X[e, t])
  L[t+1, e] = min(L[t, e] + 1, X[e, t] * X[e, t])
  O[e, t] = M[t+1, e] - L[t+1, e]
  P[e, t] = X[e, t] - pad(X[e, t-1], 0)
}
""",
    "doc": """cascade doc
rank E F T
input Q[E, T] K[E, T] V[F, T] D[T]
output O[F, T]
A[0, e, f] = 0
iterate t {
  A[t+1, e, f] = select(D[t] > 0, 0, 1) * A[t, e, f] - K[e, t] * V[f, t]
  O[f, t] = -(Q[e, t] * A[t+1, e, f])
}
""",
    "gqa": """cascade gqa
rank H G E F T
input Q[H, E, T] K[E, T] V[F, T] D[H]
output O[H, F, T]
KV[0, h, e, f] = 0
iterate t {
  KV[t+1, h, e, f] = KV[t, h, e, f] * exp(-exp(D[h])) + K[e, t] * V[f, t]
  O[h, f, t] = Q[h, e, t] * KV[t+1, h, e, f]
}
""",
    "gqa2": """cascade gqa2
rank A E F T
rank H = 2 * A
input Q[H, E, T] K[A, E, T] V[A, F, T] D[A, T]
output O[H, F, T]
KV[0, a, e, f] = 0
iterate t {
  KV[t+1, a, e, f] = KV[t, a, e, f] * sigmoid(D[a, t]) + K[a, e, t] * V[a, f, t]
  O[h, f, t] = Q[h, e, t] * KV[t+1, h // 2, e, f]
}
""",
    "hgrn": """cascade hgrn
rank E T
input F[E, T] I[E, T] G[E, T]
output O[E, T]
H[0, e] = 0
iterate t {
  H[t+1, e] = sigmoid(F[e, t]) * H[t, e] + (1 - sigmoid(F[e, t])) * I[e, t]
  O[e, t] = tanh(H[t+1, e]) * G[e, t]
}
""",
    "longhorn": """cascade longhorn
rank E F T
input Q[E, T] K[E, T] V[F, T] B[F, T]
output O[F, T]
M[0, e, f] = 0
iterate t {
  P[f, t] = K[e, t] * M[t, e, f]
  D[f, t] = B[f, t] / (1 + B[f, t] * B[f, t])
  M[t+1, e, f] = M[t, e, f] + K[e, t] * D[f, t] * (V[f, t] - P[f, t])
  O[f, t] = Q[e, t] * M[t+1, e, f]
}
""",
    "mamba1": """cascade mamba1
rank D N T
input A[D, N] DT[D, T] B[N, T] C[N, T] X[D, T] DS[D]
output Y[D, T]
H[0, d, n] = 0
iterate t {
  S[d, t] = softplus(DT[d, t])
  H[t+1, d, n] = exp(-exp(A[d, n]) * S[d, t]) * H[t, d, n] + S[d, t] * B[n, t] * X[d, t]
  CH[d, t] = C[n, t] * H[t+1, d, n]
  Y[d, t] = CH[d, t] + DS[d] * X[d, t]
}
""",
    "mean": """cascade mean
rank E T
input X[E, T]
output O[E, T]
S[0, e] = 0
N[0] = 0
iterate t {
  S[t+1, e] = S[t, e] + X[e, t]
  N[t+1] = N[t] + 1
  O[e, t] = S[t+1, e] / N[t+1] + S[t+1, e] / (t + 1)
}
""",
    "mingru": """cascade mingru
rank E T
input Z[E, T] I[E, T]
output O[E, T]
H[0, e] = 0.5
iterate t {
  ZZ[e, t] = sigmoid(Z[e, t])
  H[t+1, e] = (1 - ZZ[e, t]) * H[t, e] + ZZ[e, t] * I[e, t]
  O[e, t] = H[t+1, e]
}
""",
    "momentum": """cascade momentum
rank E F T
input Q[E, T] K[E, T] V[F, T] D[T]
output O[F, T]
M[0, e, f] = 0
S[0, e, f] = 0
iterate t {
  M[t+1, e, f] = M[t, e, f] * 0.5 + S[t, e, f]
  S[t+1, e, f] = S[t, e, f] * sigmoid(D[t]) + K[e, t] * V[f, t]
  O[f, t] = Q[e, t] * M[t+1, e, f]
}
""",
    "norm": """cascade norm
rank E F T
input Q[E, T] K[E, T] V[F, T]
output O[F, T]
KV[0, e, f] = 0
Z[0, e] = 0
iterate t {
  FK[e, t] = exp(K[e, t])
  FQ[e, t] = exp(Q[e, t])
  KV[t+1, e, f] = KV[t, e, f] + FK[e, t] * V[f, t]
  Z[t+1, e] = Z[t, e] + FK[e, t]
  DEN[t] = FQ[e, t] * Z[t+1, e]
  NUM[f, t] = FQ[e, t] * KV[t+1, e, f]
  O[f, t] = NUM[f, t] / DEN[t]
}
""",
    "quad": """cascade quad
rank E F T
input Q[E, T] K[E, T] V[F, T]
output O[T]
M[0, e, f] = 0
iterate t {
  M[t+1, e, f] = M[t, e, f] + K[e, t] * V[f, t]
  O[t] = M[t+1, e, f] * M[t+1, e, f]
}
""",
    "shift": """cascade shift
rank E F T
input Q[E, T] K[E, T] V[F, T]
output O[F, T]
M[0, e, f] = 0
iterate t {
  KS[e, t] = K[e, t] + pad(K[e, t-1], 0)
  M[t+1, e, f] = M[t, e, f] + KS[e, t] * V[f, t]
  O[f, t] = Q[e, t] * M[t+1, e, f] where t >= 1
}
""",
    "state2": """cascade state2
rank E F T
input Q[E, T] K[E, T] V[F, T] G[E, T]
output O[F, T]
M[0, e, f] = 0
iterate t {
  NEXT[t, e, f] = M[t, e, f] * sigmoid(G[e, t]) + K[e, t] * V[f, t]
  O[f, t] = Q[e, t] * NEXT[t, e, f]
  M[t+1, e, f] = NEXT[t, e, f]
}
""",
    "three": """cascade three
rank E F T
input Q[E, T] K[E, T] V[F, T] D[T]
output O[F, T]
M[0, e, f] = 0
S[0, e, f] = 0
R[0, e, f] = 0
iterate t {
  R[t+1, e, f] = R[t, e, f] * sigmoid(D[t]) + K[e, t] * V[f, t]
  S[t+1, e, f] = S[t, e, f] * 0.25 + R[t+1, e, f]
  M[t+1, e, f] = M[t, e, f] * 0.5 + S[t, e, f] * D[t] - R[t, e, f]
  O[f, t] = Q[e, t] * M[t, e, f]
}
""",
    "under": """cascade under
rank E F T
input Q[E, T] K[E, T] V[F, T] D[T]
output O[F, T]
A[0, e, f] = 0
iterate t {
  A[t+1, e, f] = -A[t, e, f] / (2 + exp(D[t])) + K[e, t] * V[f, t] / (1 + abs(D[t]))
  O[f, t] = Q[e, t] * A[t, e, f] / (1 + abs(D[t]))
}
""",
    "deltaproduct": """cascade deltaproduct
rank E F T
input Q[E, T] KA[E, T] KB[E, T] VA[F, T] VB[F, T] BA[T] BB[T] G[T]
output O[F, T]
M[0, e, f] = 0
iterate t {
  MG[t, e, f] = M[t, e, f] * sigmoid(G[t])
  PA[f, t] = KA[e, t] * MG[t, e, f]
  DA[f, t] = BA[t] * (VA[f, t] - PA[f, t])
  N[t, e, f] = MG[t, e, f] + KA[e, t] * DA[f, t]
  PB[f, t] = KB[e, t] * N[t, e, f]
  DB[f, t] = BB[t] * (VB[f, t] - PB[f, t])
  M[t+1, e, f] = N[t, e, f] + KB[e, t] * DB[f, t]
  O[f, t] = Q[e, t] * M[t+1, e, f]
}
""",
    "rwkv7_two": """cascade rwkv7_two
rank E F T
input R[E, T] W[E, T] K[E, T] V[F, T] A[E, T] B[E, T] C[E, T] D[E, T]
output O[F, T]
S[0, e, f] = 0
iterate t {
  X[f, t] = A[e, t] * S[t, e, f]
  Y[f, t] = C[e, t] * S[t, e, f]
  S[t+1, e, f] = S[t, e, f] * exp(-exp(W[e, t])) + B[e, t] * X[f, t] + D[e, t] * Y[f, t] + K[e, t] * V[f, t]
  O[f, t] = R[e, t] * S[t+1, e, f]
}
""",
    "titans_delta": """cascade titans_delta
rank E F T
input Q[E, T] K[E, T] V[F, T] H[T] A[T] G[T]
output O[F, T]
M[0, e, f] = 0
S[0, e, f] = 0
iterate t {
  P[f, t] = K[e, t] * M[t, e, f]
  R[f, t] = K[e, t] * S[t, e, f]
  D[f, t] = V[f, t] - P[f, t]
  X[f, t] = D[f, t] - A[t] * R[f, t]
  S[t+1, e, f] = sigmoid(H[t]) * S[t, e, f] + K[e, t] * X[f, t]
  M[t+1, e, f] = sigmoid(G[t]) * M[t, e, f] + S[t+1, e, f] + K[e, t] * D[f, t]
  O[f, t] = Q[e, t] * M[t+1, e, f]
}
""",
    "mutual": """cascade mutual
rank E F T
input K[E, T] L[E, T] V[F, T]
output P[F, T]
M[0, e, f] = 0
N[0, e, f] = 0
iterate t {
  P[f, t] = K[e, t] * M[t, e, f]
  R[f, t] = L[e, t] * N[t, e, f]
  M[t+1, e, f] = M[t, e, f] + K[e, t] * (V[f, t] - R[f, t])
  N[t+1, e, f] = N[t, e, f] + L[e, t] * (V[f, t] - P[f, t])
}
""",
    "several": """cascade several
rank E F T N
input Q[E, T] K[N, E, T] V[N, F, T] B[N, T]
output O[F, T]
M[0, e, f] = 0
iterate t {
  P[n, f, t] = K[n, e, t] * M[t, e, f]
  D[n, f, t] = B[n, t] * (V[n, f, t] - P[n, f, t])
  U[t, e, f] = K[n, e, t] * D[n, f, t]
  M[t+1, e, f] = M[t, e, f] + U[t, e, f]
  O[f, t] = Q[e, t] * M[t+1, e, f]
}
""",
    "coupled": """cascade coupled
rank E T
input X[E, T] Q[E, T] G[T] H[T]
output O[T]
B[0, e] = 1
C[0, e] = 0
iterate t {
  B[t+1, e] = B[t, e] * (G[t] - H[t]) + 0.3 * X[e, t] - 0.5 * C[t, e]
  C[t+1, e] = C[t, e] * 0.5 + 0.3 * H[t] * B[t+1, e]
  O[t] = Q[e, t] * (B[t, e] + C[t+1, e])
}
""",
    "alike": """cascade alike
rank E F T
input Q[E, T] K[E, T] V[F, T] G[T]
output O[F, T] N[F, T]
A[0, e, f] = 1
B[0, e, f] = 0
iterate t {
  P[f, t] = K[e, t] * B[t, e, f]
  X[t, e] = P[f, t] * K[e, t]
  A[t+1, e, f] = A[t, e, f] * sigmoid(G[t]) + V[f, t]
  B[t+1, e, f] = B[t, e, f] * 0.5 + 0.1 * X[t, e] + K[e, t] * V[f, t]
  O[f, t] = A[t+1, e, f]
  N[f, t] = Q[e, t] * B[t+1, e, f]
}
""",
}
