"""The innermost steps of the kernels as vector code: the compiler does not find it by itself.

Rows of `tables`, `turned` and `sums` are LANES words, which are added side by side. Indices must be
in range: nothing checks them here.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

LANES = 8
"""Rows of a block whose signed sums stand side by side."""
GROUP = 3
"""Columns of one table."""
ENTRIES = 27
"""Entries of one table: entry 9 p + 3 q + r holds (p - 1) x + (q - 1) y + (r - 1) z."""
TABLES = 8
"""Tables that are read together: TABLES * ENTRIES * LANES words, 14 KiB."""
TILE = 4
"""Rows of a tile of products: two sums of each, 16 vector registers."""

_array_of: Any = arrayobj.make_array
_WORD = ir.IntType(64)
_WORDS = ir.VectorType(_WORD, LANES)
_QUAD = ir.VectorType(_WORD, 4)
_INDEX = ir.IntType(32)
_HALVES = ir.VectorType(_INDEX, 8)
_LOW = ir.Constant(_QUAD, [0xFFFFFFFF] * 4)


def _row(builder: Any, array: Any, at: Any) -> Any:
    start = builder.gep(array.data, [builder.mul(at, _WORD(LANES))])
    return builder.bitcast(start, _WORDS.as_pointer())


def _emit_fill(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    tables, turned = (_array_of(signature.args[at])(context, builder, args[at]) for at in (0, 2))
    x, y, z = (
        builder.load(_row(builder, turned, builder.add(args[3], _WORD(column))), align=8)
        for column in range(GROUP)
    )
    zero = ir.Constant(_WORDS, None)
    for entry in range(ENTRIES):
        total = zero
        for word, sign in ((x, entry // 9 - 1), (y, entry // 3 % 3 - 1), (z, entry % 3 - 1)):
            if sign:
                total = (builder.add if sign > 0 else builder.sub)(total, word)
        target = _row(builder, tables, builder.add(args[1], _WORD(entry)))
        builder.store(total, target, align=8)
    return context.get_dummy_value()


def _fill_table(typing: Any, tables: Any, first: Any, turned: Any, column: Any) -> Any:
    """Write the table of three columns of turned (columns, LANES) from row `first` of tables on."""
    return types.void(tables, first, turned, column), _emit_fill


def _emit_add(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    sums, tables, index = (
        _array_of(signature.args[at])(context, builder, args[at]) for at in (0, 2, 3)
    )
    vector = args[1]
    target = _row(builder, sums, vector)
    total = builder.load(target, align=8)
    line = builder.mul(args[4], builder.extract_value(index.shape, 1))
    places = builder.gep(index.data, [builder.mul(builder.add(line, vector), _WORD(TABLES))])
    for t in range(TABLES):
        place = builder.zext(builder.load(builder.gep(places, [_WORD(t)])), _WORD)
        entry = builder.bitcast(builder.gep(tables.data, [place]), _WORDS.as_pointer())
        total = builder.add(total, builder.load(entry, align=8))
    builder.store(total, target, align=8)
    return context.get_dummy_value()


def _add_entries(typing: Any, sums: Any, vector: Any, tables: Any, index: Any, line: Any) -> Any:
    """sums[vector] += the sum over t of the LANES words of tables from index[line, vector, t]."""
    return types.void(sums, vector, tables, index, line), _emit_add


# --- products -------------------------------------------------------------------------------


def _emit_tile(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    a, b, out = (_array_of(signature.args[at])(context, builder, args[at]) for at in (0, 2, 5))
    half = args[4]
    firsts = [_start(builder, a, builder.add(args[1], _WORD(r))) for r in range(TILE)]
    other = _start(builder, b, args[3])
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(_WORD)
    sums = [builder.phi(kind) for _ in range(TILE) for kind in (_QUAD, _HALVES)]
    y, y_far = _quad(builder, other, k), _quad(builder, other, builder.add(half, k))
    ends = []
    for r, row in enumerate(firsts):
        u = builder.add(_quad(builder, row, k), y_far)
        v = builder.add(_quad(builder, row, builder.add(half, k)), y)
        low = builder.mul(builder.and_(u, _LOW), builder.and_(v, _LOW))
        cross = builder.mul(builder.bitcast(u, _HALVES), _swapped(builder, v))
        ends += [builder.add(sums[2 * r], low), builder.add(sums[2 * r + 1], cross)]
    step = builder.add(k, _WORD(_QUAD.count))
    for phi, start, end in zip(
        [k, *sums],
        [_WORD(0), *(ir.Constant(phi.type, None) for phi in sums)],
        [step, *ends],
        strict=True,
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed("<", step, half), loop, after)

    builder.position_at_end(after)
    for r in range(TILE):
        target = builder.gep(_start(builder, out, builder.add(args[1], _WORD(r))), [args[3]])
        cross = builder.zext(_added(builder, ends[2 * r + 1]), _WORD)
        both = builder.add(_added(builder, ends[2 * r]), builder.shl(cross, _WORD(32)))
        builder.store(builder.add(builder.load(target), both), target)
    return context.get_dummy_value()


def _start(builder: Any, array: Any, row: Any) -> Any:
    return builder.gep(array.data, [builder.mul(row, builder.extract_value(array.shape, 1))])


def _quad(builder: Any, row: Any, at: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(row, [at]), _QUAD.as_pointer()), align=8)


def _swapped(builder: Any, quad: Any) -> Any:
    """The halves of four words, each word's two swapped."""
    halves = builder.bitcast(quad, _HALVES)
    places = ir.Constant(_HALVES, [place ^ 1 for place in range(_HALVES.count)])
    return builder.shuffle_vector(halves, ir.Constant(_HALVES, ir.Undefined), places)


def _added(builder: Any, vector: Any) -> Any:
    places = range(vector.type.count)
    return reduce(builder.add, (builder.extract_element(vector, _INDEX(at)) for at in places))


def _add_tile(typing: Any, a: Any, i: Any, b: Any, j: Any, half: Any, out: Any) -> Any:
    """out[i + r, j] += for r < TILE the sum over k < half of (x[k] + y[half + k]) (x[half + k] +
    y[k]), x row i + r of a, y row j of b; half a positive multiple of 4."""
    return types.void(a, i, b, j, half, out), _emit_tile


fill_table: Any = intrinsic(_fill_table)
add_entries: Any = intrinsic(_add_entries)
add_tile: Any = intrinsic(_add_tile)
