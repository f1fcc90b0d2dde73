"""The innermost steps of the kernels as vector code: the compiler does not find it by itself.

Rows of `tables`, `turned` and `sums` are LANES words, which are added side by side. Indices must be
in range: nothing checks them here. Compiled kernels are found again by the time and size of their
own file (ring.py): who changes this file touches that one.
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
"""Tables that are read together, one for each byte of a word: 14 KiB."""
TILE = 4
"""Rows of a tile of products: two sums of each, 16 vector registers."""

_array_of: Any = arrayobj.make_array
_WORD = ir.IntType(64)
_WORDS = ir.VectorType(_WORD, LANES)
_QUAD = ir.VectorType(_WORD, 4)
_INDEX = ir.IntType(32)
_CHOICE = ir.VectorType(_INDEX, 4)
_HALVES = ir.VectorType(_INDEX, 8)
_LOW = ir.Constant(_QUAD, [0xFFFFFFFF] * 4)


def _row(builder: Any, array: Any, at: Any) -> Any:
    start = builder.gep(array.data, [builder.mul(at, _WORD(LANES))])
    return builder.bitcast(start, _WORDS.as_pointer())


def _emit_turn(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    turned, block = (_array_of(signature.args[at])(context, builder, args[at]) for at in (0, 2))
    targets = [_start(builder, turned, builder.add(args[1], _WORD(k))) for k in range(4)]
    for four in range(0, LANES, 4):
        rows = [_start(builder, block, builder.add(args[3], _WORD(four + r))) for r in range(4)]
        a, b, c, d = (_quad(builder, row, args[4]) for row in rows)
        near, far = ([_chosen(builder, x, y, low) for x, y in ((a, b), (c, d))] for low in _PAIRED)
        columns = [_chosen(builder, x, y, half) for half in _HALVED for x, y in (near, far)]
        for target, column in zip(targets, columns, strict=True):
            start = builder.gep(target, [_WORD(four)])
            builder.store(column, builder.bitcast(start, _QUAD.as_pointer()), align=8)
    return context.get_dummy_value()


_PAIRED = (0, 4, 2, 6), (1, 5, 3, 7)
_HALVED = (0, 1, 4, 5), (2, 3, 6, 7)


def _chosen(builder: Any, x: Any, y: Any, places: Any) -> Any:
    return builder.shuffle_vector(x, y, ir.Constant(_CHOICE, places))


def _turn_columns(typing: Any, turned: Any, column: Any, block: Any, row: Any, at: Any) -> Any:
    """turned[column + k] = block[row : row + LANES, at + k] for k < 4."""
    return types.void(turned, column, block, row, at), _emit_turn


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
    sums, tables, places = (
        _array_of(signature.args[at])(context, builder, args[at]) for at in (0, 1, 2)
    )
    count = builder.extract_value(sums.shape, 0)
    line = builder.gep(places.data, [builder.mul(args[3], count)])
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", _WORD(0), count), loop, after)

    builder.position_at_end(loop)
    vector = builder.phi(_WORD)
    target = _row(builder, sums, vector)
    total = builder.load(target, align=8)
    word = builder.load(builder.gep(line, [vector]))
    for t in range(TABLES):
        entry = builder.and_(builder.lshr(word, _WORD(8 * t)), _WORD(0xFF))
        place = _row(builder, tables, builder.add(entry, _WORD(ENTRIES * t)))
        total = builder.add(total, builder.load(place, align=8))
    builder.store(total, target, align=8)
    following = builder.add(vector, _WORD(1))
    vector.add_incoming(_WORD(0), before)
    vector.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)

    builder.position_at_end(after)
    return context.get_dummy_value()


def _add_entries(typing: Any, sums: Any, tables: Any, places: Any, line: Any) -> Any:
    """Add to sums (K, LANES) of every vector the sum of its entries of all tables, LANES words
    each, the entry's number in table t being byte t of places[line, vector]."""
    return types.void(sums, tables, places, line), _emit_add


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


turn_columns: Any = intrinsic(_turn_columns)
fill_table: Any = intrinsic(_fill_table)
add_entries: Any = intrinsic(_add_entries)
add_tile: Any = intrinsic(_add_tile)
