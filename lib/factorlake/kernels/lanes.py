"""Vectors of numbers inside compiled kernels: loads, fused products and sums in an order that is written down.

Left to itself the compiler vectorises short loops poorly (a reduction of 64 numbers spends most of its time on
setting up and tearing down) and chooses the order of sums. These few operations say what a CPU with vector
registers can do; LLVM cuts them to what the CPU at hand has (AVX-512, AVX2, NEON). A vector holds 64 bytes: 16
float32 or 8 float64; a *quad* holds one number for each of four observations.

Compiled kernels that use this file are cached by their own file: a change here asks for one there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

BYTES = 64
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class Lanes(types.Type):
    """The numba type of a vector of ``width`` numbers."""

    def __init__(self, dtype: Any, width: int):
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Lanes({dtype} x {width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes):
        super().__init__(manager, lanes, _vector(lanes))


def _builtin(function: Any) -> Any:
    """Return numba's intrinsic for ``function``, whose first argument (the typing context) callers do not give."""
    return intrinsic(function)


def _vector(lanes: Lanes) -> Any:
    return ir.VectorType(ir.FloatType() if lanes.dtype == types.float32 else ir.DoubleType(), lanes.width)


def _whole(dtype: Any) -> Lanes:
    return Lanes(dtype, BYTES * 8 // dtype.bitwidth)


def _quad(dtype: Any) -> Lanes:
    return Lanes(dtype, 4)


def _suffix(lanes: Lanes) -> str:
    return f"v{lanes.width}f{lanes.dtype.bitwidth}"


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, pointee: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


def _pick(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    """Return the vector of the numbers at ``places`` of the two vectors laid end to end."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT32, len(places)), places))


def _loader(lanes_of: Callable[[Any], Lanes], text: str) -> Any:
    def load(typing: Any, array: Any, index: Any) -> Any:
        lanes = lanes_of(array.dtype)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _address(context, builder, signature.args[0], args[0], args[1], _vector(lanes))
            return builder.load(address, align=lanes.dtype.bitwidth // 8)

        return lanes(array, types.intp), generate

    load.__doc__ = text
    return _builtin(load)


load = _loader(_whole, "load(array, index): the vector that starts at ``index`` of a flat array.")
load_quad = _loader(_quad, "load_quad(array, index): four numbers from ``index`` of a flat array.")


@_builtin
def load_part(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """load_part(array, index, count): ``count`` numbers and zeros for the rest, which is not read."""
    lanes = _whole(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _vector(lanes))
        return _load_first(builder, lanes, address, args[2])

    return lanes(array, types.intp, types.intp), generate


@_builtin
def load_wide(typing: Any, array: Any, index: Any) -> Any:
    """load_wide(array, index): the eight numbers from ``index`` of a flat array, in float64."""
    lanes, few = _whole(types.float64), Lanes(array.dtype, 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _vector(few))
        numbers = builder.load(address, align=few.dtype.bitwidth // 8)
        return numbers if few.dtype == lanes.dtype else builder.fpext(numbers, _vector(lanes))

    return lanes(array, types.intp), generate


@_builtin
def load_wide_part(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """load_wide_part(array, index, count): ``count`` of those numbers and zeros for the rest, which is not read."""
    lanes, few = _whole(types.float64), Lanes(array.dtype, 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _vector(few))
        numbers = _load_first(builder, few, address, args[2])
        return numbers if few.dtype == lanes.dtype else builder.fpext(numbers, _vector(lanes))

    return lanes(array, types.intp, types.intp), generate


def _load_first(builder: Any, lanes: Lanes, address: Any, count: Any) -> Any:
    """Return the first ``count`` numbers at an address and zeros for the rest."""
    vector, indices = _vector(lanes), ir.VectorType(_INT64, lanes.width)
    nothing = ir.Constant(indices, ir.Undefined)
    counts = _pick(builder, builder.insert_element(nothing, count, _INT32(0)), nothing, [0] * lanes.width)
    mask = builder.icmp_signed("<", ir.Constant(indices, list(range(lanes.width))), counts)
    kind = ir.FunctionType(vector, [vector.as_pointer(), _INT32, ir.VectorType(ir.IntType(1), lanes.width), vector])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{_suffix(lanes)}.p0")
    zeros = ir.Constant(vector, [0.0] * lanes.width)
    return builder.call(function, [address, _INT32(lanes.dtype.bitwidth // 8), mask, zeros])


@_builtin
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """store(array, index, value): write a vector or a quad to a flat array from ``index`` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = signature.args[2]
        address = _address(context, builder, signature.args[0], args[0], args[1], _vector(lanes))
        builder.store(args[2], address, align=lanes.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), generate


@_builtin
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """prefetch(array, index): bring the cache line of array[index] near; the array is only read later."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        address = _address(context, builder, signature.args[0], args[0], args[1], byte)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, _INT32(0), _INT32(3), _INT32(1)])
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@_builtin
def zeros_like(typing: Any, array: Any) -> Any:
    """zeros_like(array): a vector of zeros of the array's precision."""
    lanes = _whole(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_vector(lanes), [0.0] * lanes.width)

    return lanes(array), generate


@_builtin
def wide_zeros(typing: Any) -> Any:
    """wide_zeros(): a quad of float64 zeros."""
    lanes = _quad(types.float64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_vector(lanes), [0.0] * lanes.width)

    return lanes(), generate


@_builtin
def widen(typing: Any, quad: Any) -> Any:
    """widen(quad): the same four numbers in float64."""
    lanes = _quad(types.float64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0] if quad.dtype == types.float64 else builder.fpext(args[0], _vector(lanes))

    return lanes(quad), generate


@_builtin
def spread(typing: Any, number: Any) -> Any:
    """spread(number): a vector full of one number."""
    lanes = _whole(number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(_vector(lanes), ir.Undefined)
        return _pick(builder, builder.insert_element(nothing, args[0], _INT32(0)), nothing, [0] * lanes.width)

    return lanes(number), generate


def _spreader(place: int) -> Any:
    def spread(typing: Any, quad: Any) -> Any:
        lanes = _whole(quad.dtype)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _pick(builder, args[0], args[0], [place] * lanes.width)

        return lanes(quad), generate

    spread.__doc__ = f"A vector full of number {place} of a quad."
    return _builtin(spread)


spread_0, spread_1, spread_2, spread_3 = (_spreader(place) for place in range(4))


@_builtin
def spread_like(typing: Any, array: Any, number: Any) -> Any:
    """spread_like(array, number): a vector full of one float64, rounded to the array's precision."""
    lanes = _whole(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(_vector(lanes), ir.Undefined)
        rounded = context.cast(builder, args[1], types.float64, lanes.dtype)
        return _pick(builder, builder.insert_element(nothing, rounded, _INT32(0)), nothing, [0] * lanes.width)

    return lanes(array, types.float64), generate


def _operation(name: str, text: str) -> Any:
    def operation(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return left(left, right), generate

    operation.__doc__ = text
    return _builtin(operation)


add = _operation("fadd", "add(a, b): a + b, number by number.")
subtract = _operation("fsub", "subtract(a, b): a − b, number by number.")
multiply = _operation("fmul", "multiply(a, b): a·b, number by number.")


@_builtin
def inverse_or_zero(typing: Any, lanes: Any) -> Any:
    """inverse_or_zero(a): 1/a where a > 0, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(lanes)
        zeros, ones = (ir.Constant(vector, [value] * lanes.width) for value in (0.0, 1.0))
        return builder.select(builder.fcmp_ordered(">", args[0], zeros), builder.fdiv(ones, args[0]), zeros)

    return lanes(lanes), generate


@_builtin
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """multiply_add(a, b, c): a·b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(a)
        kind = ir.FunctionType(vector, [vector] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.{_suffix(a)}"), args)

    return a(a, b, c), generate


@_builtin
def four_sums(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """four_sums(a, b, c, d): the quad of the sums of four vectors, each folded in halves until one is left."""
    width = a.width

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half, quarter = width // 2, width // 4

        def fold(one: Any, other: Any, starts: tuple[int, ...], length: int) -> Any:
            """Add the first and the second half of each part of ``2·length`` numbers."""
            low = _pick(builder, one, other, [s + i for s in starts for i in range(length)])
            high = _pick(builder, one, other, [s + length + i for s in starts for i in range(length)])
            return builder.fadd(low, high)

        ab = fold(args[0], args[1], (0, width), half)
        cd = fold(args[2], args[3], (0, width), half)
        sums = fold(ab, cd, (0, half, width, width + half), quarter)
        while quarter > 1:
            sums = fold(sums, sums, tuple(quarter * part for part in range(4)), quarter // 2)
            quarter //= 2
        return sums

    return _quad(a.dtype)(a, b, c, d), generate


@_builtin
def eight_zeros(typing: Any) -> Any:
    """eight_zeros(): eight float64 zeros."""
    lanes = _whole(types.float64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_vector(lanes), [0.0] * lanes.width)

    return lanes(), generate


@_builtin
def add_products(typing: Any, a: Any, b: Any, total: Any) -> Any:
    """add_products(a, b, total): eight float64 sums, to which the products of a and b are added in float64.

    Of sixteen products the last eight follow the first.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = _vector(total)
        kind = ir.FunctionType(wide, [wide] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.{_suffix(total)}")
        if a.width == total.width:
            return builder.call(fused, args)
        sums = args[2]
        for first in range(0, a.width, total.width):
            places = list(range(first, first + total.width))
            left, right = (builder.fpext(_pick(builder, one, one, places), wide) for one in args[:2])
            sums = builder.call(fused, [left, right, sums])
        return sums

    return total(a, b, total), generate


@_builtin
def lane_sum(typing: Any, lanes: Any) -> Any:
    """lane_sum(a): the sum of a vector's numbers, folded in halves until one is left."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, width = args[0], lanes.width
        while width > 1:
            width //= 2
            halves = (_pick(builder, sums, sums, list(range(first, first + width))) for first in (0, width))
            sums = builder.fadd(*halves)
        return builder.extract_element(sums, _INT32(0))

    return lanes.dtype(lanes), generate


@_builtin
def quad_sum(typing: Any, quad: Any) -> Any:
    """quad_sum(quad): (q0 + q2) + (q1 + q3)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = builder.fadd(_pick(builder, args[0], args[0], [0, 1]), _pick(builder, args[0], args[0], [2, 3]))
        return builder.fadd(builder.extract_element(pairs, _INT32(0)), builder.extract_element(pairs, _INT32(1)))

    return quad.dtype(quad), generate


@njit(cache=True, nogil=True)
def aligned_zeros(size: int, dtype: Any) -> NDArray[Any]:
    """Return (size,) zeros that start at a cache line, so that no vector lies across two."""
    room = np.zeros(size + BYTES // 4, dtype)
    skip = (BYTES - room.ctypes.data % BYTES) % BYTES // room.itemsize
    return room[skip : skip + size]


@_builtin
def lanes_in(typing: Any, array: Any) -> Any:
    """lanes_in(array): how many numbers of the array's precision one vector holds; a constant when compiled."""
    width = _whole(array.dtype).width

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(types.intp), width)

    return types.intp(array), generate


@_builtin
def uncounted(typing: Any, array: Any) -> Any:
    """uncounted(array): the same numbers as an array that counts no references, so that nothing keeps them alive.

    Every mention of an array in compiled code may cost two atomic additions to its count, which is a third of the time
    that short rows take. For what is called by a function that holds the arrays until it returns.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = context.make_array(signature.args[0])
        view = made(context, builder)
        cgutils.copy_struct(view, made(context, builder, args[0]))
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        view.parent = cgutils.get_null_value(view.parent.type)
        return view._getvalue()

    return array(array), generate
