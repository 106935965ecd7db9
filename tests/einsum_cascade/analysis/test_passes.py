"""Passes: the values that fix the definition, and the corners of it."""

from __future__ import annotations

import pytest
from literature import REDUCED

from einsum_cascade import CascadeError, parse, zoo
from einsum_cascade.analysis.passes import all_passes, passes

LANDMARK_RETRIEVAL = """cascade retrieve
rank E G J P T
input Q[E, P] L[E, G] K[E, G, T]
output GK[P, J, T]
LK[g, p] = Q[e, p] * L[e, g]
I[p, j] = LK[g, p] :: topk(g -> j)
GK[p, j, t] = Q[e, p] * K[e, I[p, j], t]
"""
ROUTING = """cascade routing
rank C D E F I J M P
input Q[E, P] K[E, M] V[F, M] MU[C, E]
output OC[C, I, F]
SQ[c, p] = MU[c, e] * Q[e, p]
SK[c, m] = MU[c, e] * K[e, m]
IQ[c, i] = SQ[c, p] :: topk(p -> i, sorted)
IK[c, j] = SK[c, m] :: topk(m -> j, sorted)
QK[c, i, j] = Q[e, IQ[c, i]] * K[e, IK[c, j]]
GM[c, i] = QK[c, i, j] :: max(j)
SN[c, i, j] = exp(QK[c, i, j] - GM[c, i])
SD[c, i] = SN[c, i, j]
A[c, i, j] = SN[c, i, j] / SD[c, i]
OC[c, i, f] = A[c, i, j] * V[f, IK[c, j]]
"""
EVIT = """cascade evit
rank E F H J M P
input Q[H, E, P] K[H, E, M] V[H, F, M] X[F, M]
output AV[H, F, P] FU[F]
QK[h, m, p] = Q[h, e, p] * K[h, e, m]
GM[h, p] = QK[h, m, p] :: max(m)
SN[h, m, p] = exp(QK[h, m, p] - GM[h, p])
SD[h, p] = SN[h, m, p]
A[h, m, p] = SN[h, m, p] / SD[h, p]
AV[h, f, p] = A[h, m, p] * V[h, f, m]
CA[m] = A[h, m, 0] / H
I[j] = CA[m] :: topk(m -> j) where m > 0
IN[m] = select(I[j] == m, 1, 0) :: sum(j)
FU[f] = CA[m] * X[f, m] where IN[m] < 1
"""
SHSA = """cascade shsa
rank C E F N P
input X[C, N] Y[C, P] WQ[C, E] WK[C, E] WV[C, F]
output AV[F, P]
MU[] = X[c, n] / (N * C) :: sum(n, c)
VA[] = (X[c, n] - MU[])**2 / (N * C) :: sum(n, c)
XN[c, n] = (X[c, n] - MU[]) / sqrt(VA[] + 0.00001)
Q[e, p] = (Y[c, p] - MU[]) / sqrt(VA[] + 0.00001) * WQ[c, e]
K[e, n] = XN[c, n] * WK[c, e]
V[f, n] = XN[c, n] * WV[c, f]
QK[n, p] = Q[e, p] * K[e, n]
GM[p] = QK[n, p] :: max(n)
SN[n, p] = exp(QK[n, p] - GM[p])
SD[p] = SN[n, p]
A[n, p] = SN[n, p] / SD[p]
AV[f, p] = A[n, p] * V[f, n]
"""
NSE = """cascade nse
rank E L T
input O[T, E] X[L, E]
output MM[T, L, E]
MM[0, l, e] = X[l, e]
iterate t {
  SC[t, l] = O[t, e] * MM[t, l, e]
  GM[t] = SC[t, l] :: max(l)
  SN[t, l] = exp(SC[t, l] - GM[t])
  SD[t] = SN[t, l]
  Z[t, l] = SN[t, l] / SD[t]
  RD[t, e] = Z[t, l] * MM[t, l, e]
  H[t, e] = tanh(RD[t, e])
  MM[t+1, l, e] = MM[t, l, e] * (1 - Z[t, l]) + H[t, e] * Z[t, l]
}
"""
IPOT = """cascade ipot
rank I J T
input CO[I, J]
output DIST[]
KX[i, j] = exp(-CO[i, j])
TP[0, i, j] = 1
SG[0, j] = 1 / J
iterate t {
  QP[t, i, j] = KX[i, j] * TP[t, i, j]
  DR[t, i] = QP[t, i, j] * SG[t, j]
  DL[t, i] = 1 / (I * DR[t, i])
  DC[t, j] = QP[t, i, j] * DL[t, i]
  SG[t+1, j] = 1 / (J * DC[t, j])
  TP[t+1, i, j] = DL[t, i] * QP[t, i, j] * SG[t+1, j]
}
DIST[] = CO[i, j] * TP[T, i, j]
"""
BACKWARD = """cascade bidirectional
rank T
input X[T]
output O[T]
A[t] = exp(X[t])
B[t] = exp(X[T - 1 - t])
O[t] = A[t] + {read}
"""


@pytest.mark.parametrize(
    ("name", "rank", "count"),
    [
        ("attention_3pass", "M", 3),
        ("attention_2pass", "M", 2),
        ("attention_2pass_local", "M", 2),
        ("attention_2pass_local", "M0", 3),
        ("attention_1pass", "M", 1),
        ("attention_1pass", "M0", 2),
        ("linear_recurrent", "T", 1),
        ("linear_chunked", "T", 1),
        ("squeeze_excite", "P", 2),
        ("channel_attention", "T", 2),
        ("channel_attention", "D", 3),
        ("attention_causal", "M", 3),
        ("attention_sliding_window", "M", 3),
        ("attention_1pass_causal", "M", 1),
        ("gna_1d", "M", 3),
        ("gemm", "K", 1),
    ],
)
def test_values_that_fix_the_definition(name: str, rank: str, count: int) -> None:
    assert passes(zoo.load(name), rank).count == count


# Counts of the texts as their papers write them, worked out by hand from the definition for 44 papers.
LITERATURE = """
aaren_sequential M 1 | additive_adversarial M 8 | additive_adversarial_2pass M 2 | arrow_attention M 3
bispa L 3 | cosformer M 1 | crf T 1 | danet_channel N 2 | danet_channel D 4 | davit_channel N 2 | davit_channel D 3
deformable_attention K 3 | eca P 2 | ela X 3 | ela Y 3 | evit M 4 | focus_detr N 4 | gna_1d_gather W 3
gna_1d_causal W 3 | halo_attention W 3 | hat_overlapping U 3 | head_distance M 3 | ipot I 2 | ipot J 2 | l2vit M 1
landmark G 2 | landmark_1pass G 1 | landmark_retrieval G 2 | linear_chunked T 1 | linear_recurrent T 1 | lssa M 1
lssar M 2 | lstm T 1 | maniqa_transposed N 2 | maniqa_transposed D 3 | masked_mean_pool M 3 | naavit M 3
nalaformer M 1 | ninformer N 2 | object_pointer O 3 | position_attention M 3 | rcmha M 3 | reversed_attention M 3
reversed_attention P 1 | reversed_attention_2pass M 2 | rim N 2 | rim K 1 | ring_attention S 3 | routing M 3
semantic_encoder L 4 | shvit N 5 | sparsifiner M 4 | squeeze_excite P 2 | titans T 1 | titans_chunked T 1
tnl_quadratic M 1 | tnl_quadratic F 2 | urpe M 3 | urpe_2pass M 2
"""
ROWS = [tuple(row.split()) for row in LITERATURE.replace("\n", "|").split("|") if row.strip()]


@pytest.mark.parametrize(("name", "rank", "count"), ROWS)
def test_counts_of_the_zoo(name: str, rank: str, count: str) -> None:
    if name not in zoo.names():
        pytest.skip(f"the zoo has no {name}")
    assert passes(zoo.load(name), rank).count == int(count)


@pytest.mark.parametrize(
    ("text", "rank", "count"),
    [
        (REDUCED["urpe"], "M", 3),
        (LANDMARK_RETRIEVAL, "G", 2),  # a score pass, then a sparse one
        (ROUTING, "M", 3),
        (EVIT, "M", 4),
        (SHSA, "N", 5),
        (NSE, "L", 4),  # per generation
        (IPOT, "I", 2),
        (IPOT, "J", 2),
    ],
)
def test_counts_of_the_literature(text: str, rank: str, count: int) -> None:
    assert passes(parse(text), rank).count == count


def test_textbook_attention_shows_its_levels_and_chain() -> None:
    found = passes(zoo.load("attention_3pass"), "M")
    assert found.levels == {"QK": 1, "GM": 1, "SN": 2, "SD": 2, "A": 3, "AV": 3}
    assert found.chain == ("QK", "GM", "SN", "SD", "A")
    assert found.as_json()["passes"] == 3
    assert "QK -> GM -> SN -> SD -> A" in str(found)
    assert "<table>" in found._repr_html_()


def test_summaries_add_no_pass() -> None:
    found = passes(zoo.load("attention_2pass_local"), "M")
    assert {"GM", "PM", "SD"} == set(found.summaries)
    assert found.chain == ("QK", "LM", "GM", "PM", "SN")


def test_a_forward_stream_read_backward_needs_a_new_pass() -> None:
    assert passes(parse(BACKWARD.format(read="B[t]")), "T").count == 1
    assert passes(parse(BACKWARD.format(read="B[T - 1 - t]")), "T").count == 2


def test_a_state_at_its_end_is_known_after_the_pass() -> None:
    text = """cascade norm
rank M
input X[M]
output Y[M]
S[0] = 0
iterate m {
  S[m+1] = S[m] + X[m]
}
Y[m] = X[m] / S[M]
"""
    assert passes(parse(text), "M").count == 2
    assert passes(parse(text.replace("S[M]", "S[m+1]")), "M").count == 1


SELF = """cascade self_attention
rank E M
rank P = M
input X[E, M] Y[E, M]
output AV[E, M]
N[e, m] = X[e, m] * 2
QK[m, p] = {query} * N[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
O[e, p] = A[m, p] * X[e, m]
AV[e, m] = O[e, m] + {residual}
"""


@pytest.mark.parametrize("query", ["X[e, p]", "N[e, p]"])
def test_one_tensor_under_two_names_of_a_rank(query: str) -> None:
    """Queries and keys of one sequence: an element computed at place p needs no pass over m of its own."""
    text = SELF.format(query=query, residual="0 * X[e, m]").replace("AV[e, m] = O[e, m] + 0 * X[e, m]\n", "")
    text = text.replace("output AV[E, M]", "output O[E, P]")
    assert passes(parse(text), "M").count == 3


def test_every_reduced_rank_is_reported() -> None:
    assert {r: p.count for r, p in all_passes(zoo.load("attention_1pass")).items()} == {
        "E": 1,
        "M0": 2,
        "M": 1,
    }
    assert set(all_passes(zoo.load("linear_recurrent"))) == {"E", "T"}


def test_an_unknown_rank_is_refused_with_the_nearest() -> None:
    with pytest.raises(CascadeError, match="no rank N"):
        passes(zoo.load("attention_3pass"), "N")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("s <= t", 1),
        ("t > s and s % 2 == 0", 1),
        ("0 <= t - s < 4", 1),
        ("s - t < 3", 2),
        ("s >= t", 2),
        ("t != s", 2),
    ],
)
def test_states_up_to_here_need_no_further_pass(where: str, count: int) -> None:
    """Decay from place s to place t, by the running sum of both: at t, those up to t are known, later ones are not."""
    cascade = parse(f"""cascade decay
rank E T
rank S = T
input Q[E, T] K[E, T] G[T]
output O[T]
CG[0] = 0
iterate t {{
  CG[t + 1] = CG[t] + G[t]
}}
QK[s, t] = Q[e, t] * K[e, s] where {where}
W[s, t] = QK[s, t] * exp(CG[t + 1] - CG[s + 1])
O[t] = W[s, t] :: sum(s)
""")
    assert passes(cascade, "T").count == count
