"""Random recurrences: states fed by products, by each other, or by what is new to them."""

from __future__ import annotations

from hypothesis import strategies as st

GATES = (
    "",
    " * exp(-exp(D[]))",
    " * G[t]",
    " * sigmoid(G[t])",
    " * exp(-softplus(W[e, t]))",
    " * W[e, t]",
    " * (1 - G[t])",
    " * (1 - sigmoid(W[e, t]))",
    " / (2 + exp(G[t]))",
    " * 0.5 * sigmoid(G[t]) * Z[f]",
)
ADDED = (
    " + K[e, t] * V[f, t]",
    " - 2 * K[e, t] * V[f, t] * G[t]",
    " + K[e, t] * V[f, t] / (1 + abs(G[t])) - U[e] * V[f, t]",
    " + NOW[t, e, f]",
    " + K[e, t] * (V[f, t] - 1)",
)
READS = (
    "Q[e, t] * {after}",
    "Q[e, t] * {before}",
    "Q[e, t] * ({after} + U[e] * {before}) * G[t]",
    "Q[e, t] * {after} / (1 + abs(G[t])) - Q[e, t] * U[e] * NOW[t, e, f]",
    "Q[e, t] * tanh({after})",
)
PASSED = ("", " + A[t+1, e, f]", " - A[t, e, f] * G[t]", " + 0.5 * A[t, e, f]")
HEAD = "cascade random\nrank E F T\ninput Q[E, T] K[E, T] V[F, T] W[E, T] G[T] D[] U[E] Z[F]\noutput O[F, T] N[T]\n"


@st.composite
def recurrences(draw: st.DrawFn) -> str:
    """The text of one or two states, fed by products, by each other, or by what is new to both; and a normaliser."""
    first, second = draw(st.sampled_from(GATES)), draw(st.sampled_from(GATES))
    states = ["A[0, e, f] = 0", "Y[0, e] = 1"]
    body = ["NOW[t, e, f] = K[e, t] * V[f, t]"]
    added = draw(st.sampled_from(ADDED))
    read = "A"
    new = draw(st.booleans())
    both = new and draw(st.booleans())  # two states that wait for each other
    if both:
        states.append("B[0, e, f] = U[e]")
        body.append(f"PAST[f, t] = {draw(st.sampled_from(('Q[e, t]', '0.5 * K[e, t]')))} * B[t, e, f]")
    if new:  # what is new: a delta rule
        body.append("OLD[f, t] = K[e, t] * A[t, e, f]")
        added = draw(st.sampled_from((" + K[e, t] * NEW[f, t]", " + K[e, t] * NEW[f, t] + U[e] * V[f, t]")))
        minus = draw(
            st.sampled_from(
                ("OLD[f, t]", "OLD[f, t] - 0.5 * PAST[f, t]", "PAST[f, t]") if both else ("OLD[f, t]",)
            )
        )
        body.append(
            draw(st.sampled_from((f"NEW[f, t] = V[f, t] - {minus}", f"NEW[f, t] = -0.5 * ({minus}) * G[t]")))
        )
    body.append(f"A[t+1, e, f] = A[t, e, f]{first}{added}")
    if both:
        read = draw(st.sampled_from("AB"))
        step = draw(st.sampled_from(("t", "t+1")))
        body.append(f"LAST[f, t] = Q[e, t] * A[{step}, e, f]")
        body.append("NEXT[f, t] = V[f, t] - LAST[f, t]")
        body.append(f"B[t+1, e, f] = B[t, e, f]{second} + 0.5 * K[e, t] * NEXT[f, t] + K[e, t] * NEW[f, t]")
    elif draw(st.booleans()):
        read = "B"
        states.append("B[0, e, f] = U[e]")
        passed = draw(st.sampled_from(PASSED))
        body.append(f"B[t+1, e, f] = B[t, e, f]{second}{passed} + K[e, t] * V[f, t]")
    body.append("Y[t+1, e] = Y[t, e] * sigmoid(W[e, t]) + exp(K[e, t])")
    body.append("DEN[t] = exp(Q[e, t]) * Y[t+1, e]")
    text = draw(st.sampled_from(READS)).format(after=f"{read}[t+1, e, f]", before=f"{read}[t, e, f]")
    body.append(f"NUM[f, t] = {text}")
    body.append("O[f, t] = NUM[f, t] / DEN[t]")
    if draw(st.booleans()):
        states.append("M[0] = -inf")
        shift = draw(st.sampled_from(("", " + G[t]", " - 0.25")))
        body.append(f"M[t+1] = max(M[t]{shift}, D[] * G[t])")
        body.append(draw(st.sampled_from(("N[t] = M[t+1] * M[t+1]", "N[t] = exp(M[t] - M[t+1])"))))
    else:
        body.append("N[t] = DEN[t] * 2")
    lines = "".join(f"  {line}\n" for line in body)
    return HEAD + "\n".join(states) + "\niterate t {\n" + lines + "}\n"
