"""One step of a kernel written as vector code, where the compiler does not find it by itself."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES, TABLES, ENTRIES = 12, 4, 27
_WORD = ir.IntType(64)
_WORDS = ir.VectorType(_WORD, LANES)


def _emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    sums, tables, index = (
        make_array(signature.args[at])(context, builder, args[at]) for at in (0, 2, 3)
    )
    vector, group = args[1], args[4]

    def row(data: Any, at: Any) -> Any:
        start = builder.gep(data, [builder.mul(at, _WORD(LANES))])
        return builder.bitcast(start, _WORDS.as_pointer())

    target = row(sums.data, vector)
    total = builder.load(target, align=8)
    for t in range(TABLES):
        line = builder.mul(builder.add(group, _WORD(t)), builder.extract_value(index.shape, 1))
        entry = builder.load(builder.gep(index.data, [builder.add(line, vector)]))
        at = builder.add(builder.zext(entry, _WORD), _WORD(ENTRIES * t))
        total = builder.add(total, builder.load(row(tables.data, at), align=8))
    builder.store(total, target, align=8)
    return context.get_dummy_value()


def _add_entries(typing: Any, sums: Any, vector: Any, tables: Any, index: Any, group: Any) -> Any:
    """sums[vector] += the sum over t of tables[27 t + index[group + t, vector]]."""
    return types.void(sums, vector, tables, index, group), _emit


add_entries: Any = intrinsic(_add_entries)
