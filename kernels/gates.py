"""Gates on the channels of an image: a mean over the pixels, a small function of the means, a sigmoid on every pixel.

Cascades: `eca` (a convolution along the channels), `squeeze_excite` (two small layers), `ela` (means of rows and
columns, each convolved and normalised in groups). The gate of a pixel needs the mean over all of them: two passes over
the image.
Tiling: block_m channels by block_n pixels for means and scaling; the gates of an image or group are one thread block's.
Exact: means, gates and products are float32; half types round the result only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, Build
from .interpreter import interpreted_on_cpu
from .primitives import block_of, launch, tile_and_lane

# Added to a variance before the root, as in the cascade and in PyTorch's group norm.
EPSILON = 1e-5


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * 1.4426950408889634))


@triton.jit
def pixel_means(x_ptr, mean_ptr, planes, pixels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Mean over the pixels of a tile of planes; a plane is one channel of one image."""
    plane = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, pixels, BLOCK_N):
        mask = (plane[:, None] < planes) & (start + steps[None, :] < pixels)
        x = tl.load(x_ptr + plane[:, None] * pixels + start + steps[None, :], mask=mask, other=0.0)
        total += tl.sum(x.to(tl.float32), 1)
    tl.store(mean_ptr + plane, total / pixels, mask=plane < planes)


@triton.jit
def convolved_gates(
    mean_ptr, weight_ptr, gate_ptr, planes, channels, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr
):
    """Sigmoid of the means convolved along the channels of their image; beyond its ends they count as 0."""
    plane = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = plane % channels
    total = tl.zeros([BLOCK_M], tl.float32)
    for w in tl.static_range(0, WIDTH):
        there = channel + (w - WIDTH // 2)
        mask = (there >= 0) & (there < channels) & (plane < planes)
        mean = tl.load(mean_ptr + plane + (w - WIDTH // 2), mask=mask, other=0.0)
        total += mean * tl.load(weight_ptr + w).to(tl.float32)
    tl.store(gate_ptr + plane, _sigmoid(total), mask=plane < planes)


@triton.jit
def squeezed_gates(mean_ptr, reduce_ptr, expand_ptr, gate_ptr, channels, REDUCED: tl.constexpr, BLOCK_R: tl.constexpr,
                   BLOCK_M: tl.constexpr):  # fmt: skip
    """Sigmoid of two small layers over the means of one image."""
    image = tl.program_id(0).to(tl.int64) * channels
    steps = tl.arange(0, BLOCK_M)
    unit = tl.arange(0, BLOCK_R)
    hidden = tl.zeros([BLOCK_R], tl.float32)
    for start in range(0, channels, BLOCK_M):
        channel = start + steps
        mask = (unit[:, None] < REDUCED) & (channel[None, :] < channels)
        mean = tl.load(mean_ptr + image + channel, mask=channel < channels, other=0.0)
        weight = tl.load(reduce_ptr + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        hidden += tl.sum(weight.to(tl.float32) * mean[None, :], 1)
    hidden = tl.maximum(hidden, 0.0)
    for start in range(0, channels, BLOCK_M):
        channel = start + steps
        mask = (channel[:, None] < channels) & (unit[None, :] < REDUCED)
        weight = tl.load(expand_ptr + channel[:, None] * REDUCED + unit[None, :], mask=mask, other=0.0)
        total = tl.sum(weight.to(tl.float32) * hidden[None, :], 1)
        tl.store(gate_ptr + image + channel, _sigmoid(total), mask=channel < channels)


@triton.jit
def scaled_pixels(x_ptr, gate_ptr, out_ptr, planes, pixels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Every pixel times the gate of its plane."""
    tile, lane = tile_and_lane(tl.cdiv(pixels, BLOCK_N))
    plane = lane * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (plane[:, None] < planes) & (pixel[None, :] < pixels)
    places = plane[:, None] * pixels + pixel[None, :]
    x = tl.load(x_ptr + places, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + plane, mask=plane < planes, other=0.0)
    tl.store(out_ptr + places, (x * gate[:, None]).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def strip_means(x_ptr, row_ptr, column_ptr, height, width, BLOCK_M: tl.constexpr, BLOCK_X: tl.constexpr):
    """Means of the rows and of the columns of one plane, read once."""
    plane = tl.program_id(0).to(tl.int64)
    x = tl.arange(0, BLOCK_X)
    steps = tl.arange(0, BLOCK_M)
    columns = tl.zeros([BLOCK_X], tl.float32)
    for start in range(0, height, BLOCK_M):
        y = start + steps
        mask = (y[:, None] < height) & (x[None, :] < width)
        places = (plane * height + y[:, None]) * width + x[None, :]
        pixels = tl.load(x_ptr + places, mask=mask, other=0.0).to(tl.float32)
        tl.store(row_ptr + plane * height + y, tl.sum(pixels, 1) / width, mask=y < height)
        columns += tl.sum(pixels, 0)
    tl.store(column_ptr + plane * width + x, columns / height, mask=x < width)


@triton.jit
def _convolved(strip_ptr, weight_ptr, plane, channel, there, place, length, WIDTH: tl.constexpr):
    """Strips of a tile of channels, each convolved with its own weights; beyond the ends they count as 0."""
    total = tl.zeros([there.shape[0], place.shape[0]], tl.float32)
    for w in tl.static_range(0, WIDTH):
        at = place + (w - WIDTH // 2)
        mask = there[:, None] & ((at >= 0) & (at < length))[None, :]
        strip = tl.load(strip_ptr + plane[:, None] * length + at[None, :], mask=mask, other=0.0)
        weight = tl.load(weight_ptr + channel * WIDTH + w, mask=there, other=0.0).to(tl.float32)
        total += strip * weight[:, None]
    return tl.where(there[:, None] & (place < length)[None, :], total, 0.0)


@triton.jit
def strip_gates(strip_ptr, weight_ptr, gain_ptr, offset_ptr, gate_ptr, channels, groups, length, epsilon,
                WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr):  # fmt: skip
    """Sigmoid of the convolved strips of one group of channels, normalised over group and strip."""
    image = (tl.program_id(0) // groups).to(tl.int64) * channels
    members = channels // groups
    first = tl.program_id(0) % groups * members
    place = tl.arange(0, BLOCK_L)
    member = tl.arange(0, BLOCK_M)
    count = (members * length).to(tl.float32)
    mean = 0.0
    for start in range(0, members, BLOCK_M):
        channel = first + start + member
        there = start + member < members
        mean += tl.sum(
            _convolved(strip_ptr, weight_ptr, image + channel, channel, there, place, length, WIDTH)
        )
    mean = mean / count
    variance = 0.0
    for start in range(0, members, BLOCK_M):
        channel = first + start + member
        there = start + member < members
        strip = _convolved(strip_ptr, weight_ptr, image + channel, channel, there, place, length, WIDTH)
        off = tl.where(there[:, None] & (place < length)[None, :], strip - mean, 0.0)
        variance += tl.sum(off * off)
    scale = 1.0 / tl.sqrt(variance / count + epsilon)
    for start in range(0, members, BLOCK_M):
        channel = first + start + member
        there = start + member < members
        strip = _convolved(strip_ptr, weight_ptr, image + channel, channel, there, place, length, WIDTH)
        gain = tl.load(gain_ptr + channel, mask=there, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + channel, mask=there, other=0.0).to(tl.float32)
        gate = _sigmoid((strip - mean) * scale * gain[:, None] + offset[:, None])
        places = (image + channel)[:, None] * length + place[None, :]
        tl.store(gate_ptr + places, gate, mask=there[:, None] & (place < length)[None, :])


@triton.jit
def scaled_by_strips(x_ptr, row_ptr, column_ptr, out_ptr, planes, height, width, BLOCK_M: tl.constexpr,
                     BLOCK_N: tl.constexpr):  # fmt: skip
    """Every pixel times the gates of its row and of its column."""
    pixels = height * width
    tile, lane = tile_and_lane(tl.cdiv(pixels, BLOCK_N))
    plane = lane * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (plane[:, None] < planes) & (pixel[None, :] < pixels)
    places = plane[:, None] * pixels + pixel[None, :]
    x = tl.load(x_ptr + places, mask=mask, other=0.0).to(tl.float32)
    row = tl.load(row_ptr + plane[:, None] * height + (pixel // width)[None, :], mask=mask, other=0.0)
    column = tl.load(column_ptr + plane[:, None] * width + (pixel % width)[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + places, (x * row * column).to(out_ptr.dtype.element_ty), mask=mask)


def _checked(x: torch.Tensor, axes: int) -> None:
    if x.ndim < axes or 0 in x.shape or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        words = "[batch, channels, height, width]" if axes == 4 else "[batch, channels, pixels ...]"
        raise KernelError(f"x: expected {words} of floats, found {x.dtype} {list(x.shape)}")


def _gated(
    x: torch.Tensor,
    tile: tiles.Tile,
    empty: Callable[..., torch.Tensor],
    gates_of: Callable[[torch.Tensor, torch.Tensor, int], None],
) -> torch.Tensor:
    """Return x times one gate a plane; `gates_of` launches what fills the gates from the means."""
    batch, channels = x.shape[:2]
    planes, pixels = batch * channels, x[0, 0].numel()
    mean = empty((planes,), dtype=torch.float32, device=x.device)
    gate = empty((planes,), dtype=torch.float32, device=x.device)
    out = empty(tuple(x.shape), dtype=x.dtype, device=x.device)
    blocks: dict[str, Any] = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    rows = triton.cdiv(planes, tile.block_m)
    launch(pixel_means, rows, tile)(x, mean, planes, pixels, **blocks)
    gates_of(mean, gate, rows)
    launch(scaled_pixels, rows * triton.cdiv(pixels, tile.block_n), tile)(
        x, gate, out, planes, pixels, **blocks,
    )  # fmt: skip
    return out


@interpreted_on_cpu
def efficient_channel_gate(
    x: torch.Tensor,
    *,
    weights: torch.Tensor,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return x times the sigmoid of its pixel means, convolved along the channels.

    Args:
        x: [batch, channels, pixels ...].
        weights: [width] of the convolution; entry w meets channel c + w - width // 2.
        tile: block_m channels by block_n pixels; the shipped choice for the device where not given.
        empty: makes output and scratch; the checker passes one that fills them with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    _checked(x, 3)
    if weights.ndim != 1:
        raise KernelError(f"weights: expected [width], found {list(weights.shape)}")
    x, weights = x.contiguous(), weights.contiguous()
    tile = tile or tiles.choose("efficient_channel_gate", head_dim=0, dtype=x.dtype, device=x.device)

    def gates_of(mean: torch.Tensor, gate: torch.Tensor, rows: int) -> None:
        launch(convolved_gates, rows, tile)(
            mean, weights, gate, mean.numel(), x.shape[1], WIDTH=weights.numel(), BLOCK_M=tile.block_m,
        )  # fmt: skip

    return (_gated(x, tile, empty, gates_of),)


@interpreted_on_cpu
def squeeze_excite_gate(
    x: torch.Tensor,
    *,
    reduce: torch.Tensor,
    expand: torch.Tensor,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return x times the sigmoid of expand @ relu(reduce @ pixel means).

    Args:
        x: [batch, channels, pixels ...].
        reduce: [reduced, channels].
        expand: [channels, reduced].
        tile: block_m channels by block_n pixels; the shipped choice for the device where not given.
        empty: makes output and scratch; the checker passes one that fills them with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    _checked(x, 3)
    if reduce.ndim != 2 or reduce.shape[1] != x.shape[1] or expand.shape != reduce.T.shape:
        raise KernelError(
            f"expected reduce [reduced, {x.shape[1]}] and expand [{x.shape[1]}, reduced], found {list(reduce.shape)} "
            f"and {list(expand.shape)}"
        )
    x, reduce, expand = x.contiguous(), reduce.contiguous(), expand.contiguous()
    tile = tile or tiles.choose("squeeze_excite_gate", head_dim=0, dtype=x.dtype, device=x.device)

    def gates_of(mean: torch.Tensor, gate: torch.Tensor, rows: int) -> None:
        del rows
        launch(squeezed_gates, x.shape[0], tile)(
            mean, reduce, expand, gate, x.shape[1], REDUCED=reduce.shape[0], BLOCK_R=block_of(reduce.shape[0]),
            BLOCK_M=tile.block_m,
        )  # fmt: skip

    return (_gated(x, tile, empty, gates_of),)


@interpreted_on_cpu
def efficient_local_gate(
    x: torch.Tensor,
    *,
    weights: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
    groups: int = 16,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return x times a gate of its rows and a gate of its columns: pooled, convolved, normalised in groups, sigmoid.

    Args:
        x: [batch, channels, height, width].
        weights: [channels, taps] of the convolution along a strip; entry w meets place + w - taps // 2.
        gain: [channels], and `offset` too: the affine part of the group norm.
        offset: like gain.
        groups: of channels that are normalised together; divides the channels.
        tile: block_m channels or rows by block_n pixels; the shipped choice for the device where not given.
        empty: makes output and scratch; the checker passes one that fills them with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    _checked(x, 4)
    batch, channels, height, width = x.shape
    if weights.shape[0] != channels or gain.shape != (channels,) or offset.shape != (channels,):
        raise KernelError(f"weights, gain, offset: expected {channels} channels first, as x has")
    if groups < 1 or channels % groups:
        raise KernelError(f"groups={groups}: expected a divisor of {channels} channels")
    x, weights, gain, offset = (t.contiguous() for t in (x, weights, gain, offset))
    tile = tile or tiles.choose("efficient_local_gate", head_dim=0, dtype=x.dtype, device=x.device)
    planes = batch * channels
    strips = [empty((planes, n), dtype=torch.float32, device=x.device) for n in (height, width)]
    gates = [empty((planes, n), dtype=torch.float32, device=x.device) for n in (height, width)]
    out = empty(tuple(x.shape), dtype=x.dtype, device=x.device)
    launch(strip_means, planes, tile)(
        x, *strips, height, width, BLOCK_M=tile.block_m, BLOCK_X=block_of(width),
    )  # fmt: skip
    for strip, gate in zip(strips, gates, strict=True):
        length = strip.shape[1]
        launch(strip_gates, batch * groups, tile)(
            strip, weights, gain, offset, gate, channels, groups, length, EPSILON, WIDTH=weights.shape[1],
            BLOCK_M=tile.block_m, BLOCK_L=block_of(length),
        )  # fmt: skip
    launch(scaled_by_strips, triton.cdiv(planes, tile.block_m) * triton.cdiv(height * width, tile.block_n), tile)(
        x, *gates, out, planes, height, width, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
    )  # fmt: skip
    return (out,)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler: 5 taps, 64 reduced channels, strips of block_n.

    Args:
        head_dim: 0; there are no heads.
        variant: the gate's kernel: "means", "convolution", "squeeze", "scaling", "strips", "strip gates" or
            "strip scaling".
    """
    kernel, function = _PARTS[variant]
    shapes = {
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_X": tile.block_n, "BLOCK_L": tile.block_n, "WIDTH": 5,
        "REDUCED": 64, "BLOCK_R": 64,
    }  # fmt: skip
    constants = {name: value for name, value in shapes.items() if name in function.arg_names}
    words = ("x_ptr", "out_ptr", "weight_ptr", "reduce_ptr", "expand_ptr", "gain_ptr", "offset_ptr")
    pointers = {
        name: POINTER[dtype] if name in words else "*fp32"
        for name in function.arg_names
        if name.endswith("_ptr")
    }
    return Build(kernel, variant, head_dim, dtype, tile, function, pointers, ("epsilon",), (), constants)


_PARTS: dict[str, tuple[str, Any]] = {
    "means": ("efficient_channel_gate", pixel_means),
    "convolution": ("efficient_channel_gate", convolved_gates),
    "scaling": ("efficient_channel_gate", scaled_pixels),
    "squeeze": ("squeeze_excite_gate", squeezed_gates),
    "strips": ("efficient_local_gate", strip_means),
    "strip gates": ("efficient_local_gate", strip_gates),
    "strip scaling": ("efficient_local_gate", scaled_by_strips),
}
