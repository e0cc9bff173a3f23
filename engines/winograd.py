"""3×3 convolutions by Winograd's F(4×4, 3×3): a quarter of the multiplications, in float32, in Numba.

An output tile of 4×4 pixels needs an input tile d of 6×6. With the polynomial points 0, ±a, ±b and ∞ (Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", section 4.1, have a = 1, b = 2)

    Y = Aᵀ [ Σ over channels of (G w Gᵀ) ⊙ (Bᵀ d B) ] A

and the sum over channels is, for each of the 36 points, a product of matrices: tiles × channels times
channels × outputs. a = √½ and b = √2 round off half as much as 1 and 2 (LOG.md, 2026-11-21).

Layouts, all float32 and flat: pictures with channels last and a border of one zero pixel; *points*
[tile, 36, channel]; weights [block, 36, channel, 64], 64 outputs to a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

TILE = 4
PATCH = TILE + 2
POINTS = PATCH * PATCH
BLOCK = 64
"""Outputs that are computed together."""
ROWS = 7
"""Tiles that the innermost kernel multiplies together; a picture's number of tiles is a multiple of it."""

A2, B2 = 0.5, 2.0
"""a² and b²."""
_F = np.float32
_a, _b, _a2, _b2 = _F(A2**0.5), _F(B2**0.5), _F(A2), _F(B2)
_a3, _b3, _sum, _product = _F(A2**1.5), _F(B2**1.5), _F(A2 + B2), _F(A2 * B2)


@njit(inline="always")
def input_transform(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:
    """Bᵀ d along one axis: six values of the picture → six points."""
    even_a, odd_a = d4 - _b2 * d2, _a * (d3 - _b2 * d1)
    even_b, odd_b = d4 - _a2 * d2, _b * (d3 - _a2 * d1)
    zero = _product * d0 - _sum * d2 + d4
    infinity = _product * d1 - _sum * d3 + d5
    return zero, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, infinity


@njit(inline="always")
def output_transform(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    """Aᵀ m along one axis: six points → four pixels."""
    even_a, odd_a, even_b, odd_b = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return (
        m0 + even_a + even_b,
        _a * odd_a + _b * odd_b,
        _a2 * even_a + _b2 * even_b,
        _a3 * odd_a + _b3 * odd_b + m5,
    )


def weight_transform(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """G w Gᵀ of a convolution, laid out for `multiply`, once for all.

    Args:
        weight: float32 (outputs, channels, 3, 3), outputs a multiple of 64 and in the order of the blocks.

    Returns:
        float32 [block, 36, channel, 64], computed in float64.
    """
    a, b = A2**0.5, B2**0.5
    scale_a, scale_b = 2 * A2 * (A2 - B2), 2 * B2 * (B2 - A2)
    g = np.array(
        [
            [1 / (A2 * B2), 0, 0],
            *([s * v / scale_a for v in (1, 0, A2)] for s in (1, 1)),
            *([s * v / scale_b for v in (1, 0, B2)] for s in (1, 1)),
            [0, 0, 1],
        ]
    )
    g[1:5, 1] = [a / scale_a, -a / scale_a, b / scale_b, -b / scale_b]
    points = np.einsum("iy,ocyx,jx->ijco", g, weight.astype(np.float64), g)
    channels, outputs = points.shape[2:]
    blocks = points.reshape(POINTS, channels, outputs // BLOCK, BLOCK).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(blocks, dtype=np.float32)


def _multiply_kernel(rows: int, vectors: int, lanes: int, add: bool) -> Callable[..., None]:
    """m[r, j] = Σ over k of v[r, k] · u[k, j], for `rows` rows and `vectors` · `lanes` columns, in registers;
    m[r, j] += with `add`.

    LLVM keeps the sums in registers only when told each of them by name, so the loop is written in its own
    language. 7 × 2 vectors of 16 take 14 of AVX-512's 32 registers: 107 of about 115 GFLOP/s a core; 7 × 4 do
    not fit beside the factors, and spilling leaves a third.
    """

    @intrinsic
    def kernel(_, v, v_at, v_row, u, u_at, u_row, m, m_at, m_row, depth):  # type: ignore[no-untyped-def]  # noqa: ARG001
        offset = types.intp
        signature = types.void(v, offset, offset, u, offset, offset, m, offset, offset, offset)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            index, scalar = ir.IntType(64), ir.FloatType()
            vector = ir.VectorType(scalar, lanes)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
            )

            def data(i: int, start: Any) -> Any:
                array = context.make_array(signature.args[i])(context, builder, arguments[i])
                return builder.gep(array.data, [start])

            def at(pointer: Any, vector_number: int) -> Any:
                place = builder.gep(pointer, [index(vector_number * lanes)])
                return builder.bitcast(place, vector.as_pointer())

            _, v_at, v_row, _, u_at, u_row, _, m_at, m_row, depth = arguments
            v_rows = [data(0, builder.add(v_at, builder.mul(v_row, index(r)))) for r in range(rows)]
            u_first = data(3, u_at)
            before, loop = builder.block, builder.append_basic_block("multiply")
            after = builder.append_basic_block("store")
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            k.add_incoming(index(0), before)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            u_now = builder.gep(u_first, [builder.mul(k, u_row)])
            u_values = [builder.load(at(u_now, j), align=4) for j in range(vectors)]
            nothing = ir.Constant(vector, ir.Undefined)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            results = []
            for v_first, row in zip(v_rows, sums, strict=True):
                value = builder.insert_element(
                    nothing, builder.load(builder.gep(v_first, [k])), ir.IntType(32)(0)
                )
                value = builder.shuffle_vector(value, nothing, everywhere)
                results.append([builder.call(fma, [value, u_values[j], row[j]]) for j in range(vectors)])
            following = builder.add(k, index(1))
            k.add_incoming(following, loop)
            for row, result in zip(sums, results, strict=True):
                for phi, value in zip(row, result, strict=True):
                    phi.add_incoming(ir.Constant(vector, [0.0] * lanes), before)
                    phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
            builder.position_at_end(after)
            for r, result in enumerate(results):
                m_now = data(6, builder.add(m_at, builder.mul(m_row, index(r))))
                for j, value in enumerate(result):
                    total = builder.fadd(builder.load(at(m_now, j), align=4), value) if add else value
                    builder.store(total, at(m_now, j), align=4)
            return context.get_dummy_value()

        return signature, generate

    return kernel


_multiply, _multiply_add = _multiply_kernel(ROWS, 2, 16, False), _multiply_kernel(ROWS, 2, 16, True)

DEPTH = 32
"""Channels that are summed in one go; their number is a multiple of it. Most of the error is made here, and
sums of sums of 32 are 1.7 times closer than one sum of 128."""


@njit(nogil=True, boundscheck=False, cache=True)
def multiply(
    points: NDArray[np.float32],
    weights: NDArray[np.float32],
    channels: int,
    tiles: int,
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """One block's sums over channels.

    Args:
        points: [tile, 36, channel].
        weights: of one block, [36, channel, 64].
        channels: how many.
        tiles: how many, a multiple of 7.
        out: [tile, 36, 64], written.
    """
    v_row, m_row = POINTS * channels, POINTS * BLOCK
    for p in range(POINTS):
        for tile in range(0, tiles, ROWS):
            row = tile * POINTS + p
            for half in range(0, BLOCK, 32):
                v, u, m = row * channels, p * channels * BLOCK + half, row * BLOCK + half
                _multiply(points, v, v_row, weights, u, BLOCK, out, m, m_row, DEPTH)
                for k in range(DEPTH, channels, DEPTH):
                    _multiply_add(points, v + k, v_row, weights, u + k * BLOCK, BLOCK, out, m, m_row, DEPTH)


_CHUNK = 32
"""Channels that are transformed together: a patch of them stays in the first-level cache."""


@njit(nogil=True, boundscheck=False, cache=True, fastmath={"contract"})
def to_points(
    padded: NDArray[np.float32],
    side: int,
    channels: int,
    first: int,
    tiles: int,
    points: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Bᵀ d B of some tiles.

    Args:
        padded: [side + 2, side + 2, channel], its border zero.
        side: pixels without the border, a multiple of 4.
        channels: a multiple of 32.
        first: tile, counted row by row.
        tiles: how many.
        points: [tile, 36, channel] of the whole picture; the part of these tiles is written.
    """
    columns, rows = np.empty(POINTS * _CHUNK, np.float32), np.empty(POINTS * _CHUNK, np.float32)
    n, line = _CHUNK, PATCH * _CHUNK
    across = side // TILE
    for tile in range(first, first + tiles):
        corner = (tile // across * TILE * (side + 2) + tile % across * TILE) * channels
        for chunk in range(0, channels, n):
            # Copied first, and last: between two arrays of a fixed layout LLVM makes vectors of the loops.
            for p in range(POINTS):
                start = corner + (p // PATCH * (side + 2) + p % PATCH) * channels + chunk
                source, target = padded[start : start + n], columns[p * n : (p + 1) * n]
                for c in range(n):
                    target[c] = source[c]
            for i in range(line):
                v = input_transform(
                    columns[i],
                    columns[i + line],
                    columns[i + 2 * line],
                    columns[i + 3 * line],
                    columns[i + 4 * line],
                    columns[i + 5 * line],
                )
                for k in range(PATCH):
                    rows[i + k * line] = v[k]
            for y in range(PATCH):
                s, t = rows[y * line : (y + 1) * line], columns[y * line : (y + 1) * line]
                for c in range(n):
                    v = input_transform(
                        s[c], s[c + n], s[c + 2 * n], s[c + 3 * n], s[c + 4 * n], s[c + 5 * n]
                    )
                    for k in range(PATCH):
                        t[c + k * n] = v[k]
            for p in range(POINTS):
                start = (tile * POINTS + p) * channels + chunk
                source, target = columns[p * n : (p + 1) * n], points[start : start + n]
                for c in range(n):
                    target[c] = source[c]


@njit(nogil=True, boundscheck=False, cache=True, fastmath={"contract"})
def from_points(
    sums: NDArray[np.float32], tiles: int, pixels: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    """Aᵀ M A of one block.

    Args:
        sums: [tile, 36, 64].
        tiles: how many.
        pixels: [tile, 16, 64], a tile's pixels row by row; written.
    """
    rows = np.empty(TILE * PATCH * BLOCK, np.float32)
    n, line = BLOCK, PATCH * BLOCK
    for tile in range(tiles):
        m = sums[tile * POINTS * n : (tile + 1) * POINTS * n]
        for i in range(line):
            v = output_transform(
                m[i], m[i + line], m[i + 2 * line], m[i + 3 * line], m[i + 4 * line], m[i + 5 * line]
            )
            for k in range(TILE):
                rows[i + k * line] = v[k]
        for y in range(TILE):
            s = rows[y * line : (y + 1) * line]
            t = pixels[(tile * TILE + y) * TILE * n : (tile * TILE + y + 1) * TILE * n]
            for c in range(n):
                v = output_transform(s[c], s[c + n], s[c + 2 * n], s[c + 3 * n], s[c + 4 * n], s[c + 5 * n])
                for k in range(TILE):
                    t[c + k * n] = v[k]
