"""What the arguments of a stranger's kernel are: said, annotated, or told by what its source does with them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from einsum_cascade.errors import KernelError, nearest
from mappings.expression import evaluate_expression

from .aot import POINTER

SCALARS = ("i32", "i64", "fp32")
# What a tensor may hold, as Triton writes it; an index, say, is *i32.
WORDS = (
    "u1", "i1", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64",
    "fp8e4nv", "fp8e5", "fp16", "bf16", "fp32", "fp64",
)  # fmt: skip
# Of a number that is always a multiple of 16, as Triton's own ahead-of-time compiler writes it: launches find that out.
MULTIPLE = ":16"
# What Triton has that gives addresses another shape, or tells more of them.
_LAID_OUT = (
    "multiple_of",
    "max_contiguous",
    "max_constancy",
    "broadcast_to",
    "expand_dims",
    "cast",
    "reshape",
    "view",
)
_PAIRS = re.compile(r",(?![^\[]*\])")
_BLOCK = re.compile(r"\*?(?P<word>\w+)\[(?P<sides>[^\[\]]+)\]\Z")


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping; several may stand in one word, parted by commas.

    Commas inside brackets part nothing.

    Raises:
        KernelError: a word without `=`, or a name given twice.

    >>> parse_pairs(["BM=128,BN=64", "x=fp16[BM,64],y=fp16"], "--constexpr")
    {'BM': '128', 'BN': '64', 'x': 'fp16[BM,64]', 'y': 'fp16'}
    """
    pairs: dict[str, str] = {}
    for word in (part for whole in words for part in _PAIRS.split(whole)):
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise KernelError(f"{option} {word}: expected NAME=VALUE")
        if name in pairs:
            raise KernelError(f"{option} {name}: given twice")
        pairs[name] = value
    return pairs


def constant_of(name: str, value: Any) -> Any:
    """Return a compile-time value; the words of a type, as sources write it, are that type.

    Raises:
        KernelError: no such type.

    >>> constant_of("OUT", "tl.bfloat16"), constant_of("PRECISION", "tf32")
    (triton.language.bfloat16, 'tf32')
    """
    if not isinstance(value, str) or not value.startswith("tl."):
        return value
    import triton.language as tl

    types = {f"tl.{n}": t for n, t in vars(tl).items() if isinstance(t, tl.dtype)}
    if value not in types:
        raise KernelError(f"--constexpr {name}={value}: {nearest(value, types)}")
    return types[value]


def functions_of(kernel: Any) -> dict[str, Any]:
    """Return the Triton functions that a kernel may call, by the names that its file has for them."""
    from triton.runtime.jit import JITFunction

    found: dict[str, Any] = {}
    for name, value in kernel.fn.__globals__.items():
        if isinstance(value, ModuleType) and not value.__name__.startswith("triton"):
            found |= {f"{name}.{n}": f for n, f in vars(value).items() if isinstance(f, JITFunction)}
        elif isinstance(value, JITFunction):
            found[name] = value
    return found


def pointers_of(source: str, *, functions: Mapping[str, Any] | None = None) -> set[str]:
    r"""Return the parameters at the root of every address that a kernel's source loads from or stores to.

    Args:
        functions: others that it may call, each with its `src`; what they take as pointers are pointers here.

    >>> sorted(pointers_of("def f(X, Y, n):\n p = X + n\n tl.store(Y + n, tl.load(p))"))
    ['X', 'Y']
    """
    return _roots(source, functions or {}, frozenset())


def _roots(source: str, functions: Mapping[str, Any], above: frozenset[int]) -> set[str]:
    values: dict[str, list[ast.expr]] = {}
    addresses: list[ast.expr] = []
    parameters: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        for name, value in _named(node):
            values.setdefault(name, []).append(value)
        if isinstance(node, ast.arg):
            parameters.add(node.arg)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _addresses(node.func.attr)
        ):
            addresses += node.args[:1] or [k.value for k in node.keywords if k.arg in ("base", "pointer")]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in functions:
            addresses += _handed_on(node, functions[ast.unparse(node.func)], above)
    known: dict[str, set[str]] = {}
    return {root for place in addresses for root in _origins(place, values, parameters, known)} & parameters


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a statement gives to values, with these; those of a tuple one by one."""
    if isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
        if isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            each = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                each = list(zip(target.elts, node.value.elts, strict=False))
            yield from ((t.id, value) for t, value in each if isinstance(t, ast.Name))


def _origins(
    place: ast.expr, values: Mapping[str, list[ast.expr]], parameters: set[str], known: dict[str, set[str]]
) -> set[str]:
    """Return the parameters that an address is counted from: of a sum the first part that has one, of a product none.

    Args:
        values: what each name is given anywhere.
        known: the answers for names; of one that is being looked at, itself, so that `p = p + n` is counted from p.
    """

    def origins(*parts: ast.expr) -> set[str]:
        return {root for part in parts for root in _origins(part, values, parameters, known)}

    if isinstance(place, ast.Name):
        if place.id not in known:
            known[place.id] = {place.id}
            known[place.id] = known[place.id] & parameters | (origins(*values.get(place.id, [])) - {place.id})
        return known[place.id]
    if isinstance(place, ast.BinOp) and isinstance(place.op, (ast.Add, ast.Sub)):
        return origins(place.left) or origins(place.right)
    if isinstance(place, ast.IfExp):
        return origins(place.body, place.orelse)
    if isinstance(place, ast.Subscript):
        return origins(place.value)
    if isinstance(place, ast.Call) and isinstance(place.func, ast.Attribute):
        if place.func.attr == "where":
            return origins(*place.args[1:])
        if place.func.attr in _LAID_OUT:
            return origins(*place.args[:1])
        return origins(place.func.value) if place.func.attr == "to" else set()
    return set()


def _handed_on(call: ast.Call, called: Any, above: frozenset[int]) -> list[ast.expr]:
    """Return the arguments that a called function takes as pointers; nothing of one that is being looked at."""
    if id(called) in above:
        return []
    inside = _roots(called.src, functions_of(called), above | {id(called)})
    given = dict(zip(called.arg_names, call.args, strict=False))
    given |= {k.arg: k.value for k in call.keywords if k.arg}
    return [value for name, value in given.items() if name in inside]


def _addresses(call: str) -> bool:
    return call in ("load", "store", "make_block_ptr", "make_tensor_descriptor") or call.startswith("atomic_")


def descriptors_of(source: str) -> set[str]:
    r"""Return the parameters whose own methods load and store: descriptors of tensors that the host made.

    >>> descriptors_of("def f(a, X, n):\n t = a.load([n, 0])\n tl.store(X, t)")
    {'a'}
    """
    tree = ast.parse(textwrap.dedent(source))
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    owners = {
        node.func.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _moves(node.func.attr)
        if isinstance(node.func.value, ast.Name)
    }
    return owners & parameters


def _moves(method: str) -> bool:
    return method in ("load", "store", "gather", "scatter") or method.startswith("atomic_")


def hint(parameter: Any) -> str:
    """Return the type that a parameter's annotation or default tells, or no word; Triton itself obeys the former."""
    if (told := parameter.annotation_type.replace("*k", "*")).removeprefix("*") in (*WORDS, *SCALARS):
        return str(told)
    return "fp32" if parameter.has_default and isinstance(parameter.default, float) else ""


def guess(name: str, *, addressed: bool) -> str:
    """Return what an argument is taken to be of which nobody says anything.

    >>> guess("x", addressed=True), guess("out_ptr", addressed=False), guess("n", addressed=False)
    ('*bf16', '*bf16', 'i32')
    """
    return "*bf16" if addressed or "ptr" in name.lower() else "i32"


def type_of(name: str, given: str, constants: Mapping[str, Any]) -> str:
    """Return the type of an argument as Triton writes it, or a number's with `MULTIPLE` behind it.

    Args:
        given: as a command line has it.
        constants: compile-time values, by whose names the block of a descriptor may be written.

    Raises:
        KernelError: no such type, or a block that is none.

    >>> type_of("x", "fp16", {}), type_of("n", "scalar:i64", {}), type_of("d", "fp16[BM,BK / 2]", {"BM": 128, "BK": 64})
    ('*fp16', 'i64', 'tensordesc<fp16[128,32]>')
    """
    if given.startswith("scalar:"):
        if (word := given.removeprefix("scalar:")) in SCALARS:
            return word
    elif given.removesuffix(MULTIPLE) in ("i32", "i64"):
        return given
    elif given.removeprefix("*") in POINTER:
        return POINTER[given.removeprefix("*")]
    elif given.startswith("*") and given.removeprefix("*") in WORDS:
        return given
    elif (block := _BLOCK.match(given)) and block["word"] in WORDS:
        sides = (_side(name, text, constants) for text in block["sides"].split(","))
        return f"tensordesc<{block['word']}[{','.join(map(str, sides))}]>"
    raise KernelError(
        f"--arg {name}={given}: expected fp16, bf16, fp32, *i32 ... (tensors), fp16[ROWS,COLUMNS] (descriptors), "
        "i32, i64, i32:16, scalar:fp32 (numbers)"
    )


def _side(name: str, text: str, constants: Mapping[str, Any]) -> int:
    """Return one side of a descriptor's block."""
    numbers = {n: v for n, v in constants.items() if isinstance(v, int)}
    side = evaluate_expression(text, numbers, where=f"--arg {name}", error=KernelError)
    if side != int(side) or side < 1:
        raise KernelError(f"--arg {name}: '{text.strip()}' is {side:g}; expected a whole number of elements")
    return int(side)


def word_of(type_: str) -> str | None:
    """Return the words of a tensor, whether it is given by a pointer or by a descriptor; None of a number.

    >>> word_of("*fp16"), word_of("tensordesc<bf16[64,64]>"), word_of("i64")
    ('fp16', 'bf16', None)
    """
    if type_.startswith("*"):
        return type_.removeprefix("*")
    return type_.removeprefix("tensordesc<").partition("[")[0] if type_.startswith("tensordesc<") else None
