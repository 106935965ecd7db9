"""Naive texts of the operators of the literature: those that one pass can do, and those that it cannot."""

from __future__ import annotations

REDUCED = {
    "causal": """cascade causal
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where m <= p
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "sliding_window": """cascade window
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where 0 <= p - m < 3
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "strictly_causal": """cascade strict
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where m < p - 3
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "additive_mask": """cascade masked
rank E F M P
input Q[E, P] K[E, M] V[F, M] B[M, P]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QB[m, p] = QK[m, p] / sqrt(E) + B[m, p]
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "filled_mask": """cascade filled
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QB[m, p] = select(m <= p, QK[m, p], -inf)
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "layer_norm_statistics": """cascade statistics
rank M P
input X[M, P]
output MU[P] RS[P]
MU[p] = X[m, p] / M :: sum(m)
D[m, p] = X[m, p] - MU[p]
VA[p] = D[m, p] * D[m, p] / M :: sum(m)
RS[p] = 1 / sqrt(VA[p] + 0.00001)
""",
    "alibi": """cascade alibi
rank E F M P
input Q[E, P] K[E, M] V[F, M] S[]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where m <= p
QB[m,p] = QK[m,p] - S[]*(p - m)
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "relbias": """cascade relbias
rank L = M + P - 1
rank E F M P
input Q[E, P] K[E, M] V[F, M] B[L]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QB[m,p] = QK[m,p] + B[m - p + P - 1]
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "softcap": """cascade softcap
let C = 30
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QB[m,p] = C * tanh(QK[m,p] / C)
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "sink": """cascade sink
rank E F M P
input Q[E, P] K[E, M] V[F, M] S[]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
LM[p] = QK[m,p] :: max(m)
GM[p]=max(LM[p], S[])
SN[m,p]=exp(QK[m,p]-GM[p])
SS[p]=SN[m,p]
SD[p]=SS[p]+exp(S[]-GM[p])
A[m,p]=SN[m,p]/SD[p]
AV[f,p]=A[m,p]*V[f,m]
""",
    "gqa": """cascade gqa
rank E F M P H J
rank G
input Q[H, E, P] K[J, E, M] V[J, F, M]
output AV[H, F, P]
QK[h, m, p] = Q[h, e, p] * K[h // G, e, m]
GM[h,p] = QK[h,m, p] :: max(m)
SN[h,m, p] = exp(QK[h,m, p] - GM[h,p])
SD[h,p] = SN[h,m, p]
A[h,m, p] = SN[h,m, p] / SD[h,p]
AV[h,f, p] = A[h,m, p] * V[h // G, f, m]
""",
    "urpe": """cascade urpe
rank L = M + P - 1
rank E F M P
input Q[E, P] K[E, M] V[F, M] B[L] C[L]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QB[m,p] = QK[m,p] + B[m - p + P - 1]
GM[p] = QB[m, p] :: max(m)
SN[m, p] = exp(QB[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * C[m - p + P - 1] * V[f, m]
""",
    "lssa": """cascade lssa
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
SP[m,p]=softplus(log(E)*log(p+1)/sqrt(E)*QK[m,p]) where m <= p
SD[p]=SP[m,p]
A[m,p]=SP[m,p]/SD[p]
AV[f,p]=A[m,p]*V[f,m]
""",
    "logsumexp": """cascade lse
rank M P
input X[M,P]
output L[P]
GM[p]=X[m,p]::max(m)
SN[m,p]=exp(X[m,p]-GM[p])
SD[p]=SN[m,p]
L[p]=GM[p]+log(SD[p])
""",
    "lse_attention": """cascade lseatt
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
L[p]=QK[m,p]::logsumexp(m)
A[m,p]=exp(QK[m,p]-L[p])
AV[f,p]=A[m,p]*V[f,m]
""",
    "cross_entropy": """cascade ce
rank M P
input X[M,P] Y[P]
output L[P]
GM[p]=X[m,p]::max(m)
SN[m,p]=exp(X[m,p]-GM[p])
SD[p]=SN[m,p]
L[p]=GM[p]+log(SD[p])-X[Y[p],p]
""",
    "cross_entropy_onehot": """cascade ceo
rank M P
input X[M,P] Y[M,P]
output L[P]
GM[p]=X[m,p]::max(m)
SN[m,p]=exp(X[m,p]-GM[p])
SD[p]=SN[m,p]
LP[m,p]=X[m,p]-GM[p]-log(SD[p])
L[p]=-(Y[m,p]*LP[m,p]) :: sum(m)
""",
    "variance": """cascade variance
rank M P
input X[M,P]
output VA[P]
MU[p]=X[m,p]/M::sum(m)
VA[p]=(X[m,p]-MU[p])**2/M :: sum(m)
""",
    "attention_variance": """cascade attvar
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output VA[F, P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
VA[f,p]=A[m,p]*(V[f,m]-AV[f,p])**2
""",
    "pearson": """cascade pearson
rank M
input X[M] Y[M]
output R[]
MX[]=X[m]/M::sum(m)
MY[]=Y[m]/M::sum(m)
CX[]=(X[m]-MX[])*(Y[m]-MY[])
VX[]=(X[m]-MX[])**2::sum(m)
VY[]=(Y[m]-MY[])**2::sum(m)
R[]=CX[]/sqrt(VX[]*VY[])
""",
    "entropy": """cascade entropy
rank E M P
input Q[E, P] K[E, M]
output H[P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
LA[m,p]=QK[m,p]-GM[p]-log(SD[p])
H[p]=-(A[m,p]*LA[m,p])::sum(m)
""",
    "entropy_log": """cascade entropy
rank E M P
input Q[E, P] K[E, M]
output H[P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
LA[m,p]=log(A[m,p])
H[p]=-(A[m,p]*LA[m,p])::sum(m)
""",
    "forgetting": """cascade forgetting
rank E F M P
rank L = M
input Q[E, P] K[E, M] V[F, M] FG[M]
output AV[F, P]
LF[m] = 0 - softplus(0 - FG[m])
D[m, p] = LF[l] :: sum(l) where m < l and l <= p
QK[m, p] = Q[e, p] * K[e, m] where m <= p
S[m, p] = QK[m, p] + D[m, p]
GM[p] = S[m, p] :: max(m)
SN[m, p] = exp(S[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "forgetting_prefix": """cascade forgettingprefix
rank E F M P
rank L = M
input Q[E, P] K[E, M] V[F, M] FG[M]
output AV[F, P]
LF[m] = 0 - softplus(0 - FG[m])
CF[m] = LF[l] :: sum(l) where l <= m
S[m, p] = Q[e, p] * K[e, m] where m <= p
SF[m, p] = S[m, p] + CF[p] - CF[m]
GM[p] = SF[m, p] :: max(m)
SN[m, p] = exp(SF[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
""",
    "multi_token_heads": """cascade multitokenheads
rank E F H M P U W
rank G = H
input Q[H, E, P] K[H, E, M] V[H, F, M] TH[H, U, W] WH[H, G]
output AV[G, F, P]
QK[h, m, p] = Q[h, e, p] * K[h, e, m] where m <= p
CQ[h, m, p] = TH[h, u, w] * pad(QK[h, m + w - W // 2, p - u], 0) where m <= p
GM[h, p] = CQ[h, m, p] :: max(m)
SN[h, m, p] = exp(CQ[h, m, p] - GM[h, p])
SD[h, p] = SN[h, m, p] :: sum(m)
A[h, m, p] = SN[h, m, p] / SD[h, p]
B[g, m, p] = WH[h, g] * A[h, m, p]
AV[g, f, p] = B[g, m, p] * V[g, f, m]
""",
}
STUCK = {
    "layernorm": (
        """cascade layernorm
rank M P
input X[M,P]
output Y[M,P]
MU[p]=X[m,p]/M::sum(m)
VA[p]=(X[m,p]-MU[p])**2/M :: sum(m)
Y[m,p]=(X[m,p]-MU[p])/sqrt(VA[p]+0.00001)
""",
        "Y",
        "keeps M",
    ),
    "reversed": (
        """cascade reversed
rank E F M P
input Q[E,P] K[E,M] V[F,P]
output O[F,M]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
O[f,m]=A[m,p]*V[f,p]
""",
        "O",
        "another rank",
    ),
    "lssar": (
        """cascade lssar
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
SP[m,p]=softplus(QK[m,p])
SD[p]=SP[m,p]
RW[m,p]=relu((p+1)*SP[m,p]/SD[p]-1)**3
RD[p]=RW[m,p]
B[m,p]=RW[m,p]/max(RD[p],0.000001)
AV[f,p]=B[m,p]*V[f,m]
""",
        "RW",
        "threshold",
    ),
    "gather": (
        """cascade gather
rank E F J M P
input Q[E,P] K[E,M] V[F,M]
output AV[F,P]
S[m,p]=Q[e,p]*K[e,m]
I[p,j]=S[m,p]::topk(m -> j)
QK[p,j]=Q[e,p]*K[e,I[p,j]]
W[p,j]=sigmoid(QK[p,j])
AV[f,p]=W[p,j]*V[f,I[p,j]]
""",
        "QK",
        "selects",
    ),
}
