"""Two steps of the projections on signs as vector code: the compiler does not find it by itself.

Rows of `tables`, `turned` and `sums` are LANES words, which are added side by side. Indices must be
in range: nothing checks them here.
"""

from __future__ import annotations

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

_array_of: Any = arrayobj.make_array
_WORD = ir.IntType(64)
_WORDS = ir.VectorType(_WORD, LANES)


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
    vector, group = args[1], args[4]
    target = _row(builder, sums, vector)
    total = builder.load(target, align=8)
    for t in range(TABLES):
        line = builder.mul(builder.add(group, _WORD(t)), builder.extract_value(index.shape, 1))
        entry = builder.load(builder.gep(index.data, [builder.add(line, vector)]))
        at = builder.add(builder.zext(entry, _WORD), _WORD(ENTRIES * t))
        total = builder.add(total, builder.load(_row(builder, tables, at), align=8))
    builder.store(total, target, align=8)
    return context.get_dummy_value()


def _add_entries(typing: Any, sums: Any, vector: Any, tables: Any, index: Any, group: Any) -> Any:
    """sums[vector] += the sum over t of tables[27 t + index[group + t, vector]]."""
    return types.void(sums, vector, tables, index, group), _emit_add


fill_table: Any = intrinsic(_fill_table)
add_entries: Any = intrinsic(_add_entries)
