"""Building blocks of the compiled CPU kernel: polynomials without libm, exact powers of two, hints to the compiler.

Everything serves two types: a polynomial is a pair of tuples (nanobrag_torch.polynomials), and the type of the argument
picks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanobrag_torch.compilation import Compiled, compiled, deferred

FAST = {"contract", "nsz", "arcp", "reassoc", "afn"}
"""What LLVM may do with sums and products; it may not assume that they are finite."""
ORDERED = {"contract", "nsz"}
"""The same where another order of products could overflow or underflow; sums over a loop do not become vector code."""


def entry(*, title: str = "", **options: Any) -> Callable[[Callable[..., Any]], Compiled[..., Any]]:
    """Decorator: a compiled function that Python calls. It allocates nothing, so that arrays need not be counted."""
    return compiled(title=title, _nrt=False, no_cfunc_wrapper=True, **options)


def stage(**options: Any) -> Callable[[Callable[..., Any]], Compiled[..., Any]]:
    """Decorator: one that only compiled functions call, without the code for calls from Python."""
    return entry(no_cpython_wrapper=True, **options)


def _plain_horner(x: Any, coarse: tuple[float, ...], fine: tuple[float, ...]) -> Any:
    total = 0.0
    for coefficient in reversed(fine):
        total = total * x + coefficient
    return total


@deferred(plain=_plain_horner)
def horner() -> Any:
    """`horner(x, coarse, fine)`: the polynomial at x, unrolled; `coarse` for float32, `fine` for float64."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def unrolled(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, coarse, fine = arguments
        single = signature.args[0] == types.float32
        chosen, count = (coarse, len(signature.args[1])) if single else (fine, len(signature.args[2]))
        kind = ir.FloatType() if single else ir.DoubleType()
        places = [builder.extract_value(chosen, k) for k in range(count)]
        places = [builder.fptrunc(c, kind) if single else c for c in places]
        total = places[-1]
        for coefficient in reversed(places[:-1]):
            total = builder.fadd(builder.fmul(total, x, flags=("contract",)), coefficient, flags=("contract",))
        return total

    def evaluate(typing: Any, x: Any, coarse: Any, fine: Any) -> Any:
        return x(x, coarse, fine), unrolled

    return intrinsic(evaluate)


def _plain_power_of_two(n: Any) -> Any:
    return 2.0 ** float(n)


@deferred(plain=_plain_power_of_two)
def power_of_two() -> Any:
    """`power_of_two(n)`: 2^n of a whole floating-point n, put together from its bits; n within the type's exponents."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def from_bits(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        single = signature.args[0] == types.float32
        width, bias, shift = (32, 127, 23) if single else (64, 1023, 52)
        integer, kind = ir.IntType(width), ir.FloatType() if single else ir.DoubleType()
        whole = builder.fptosi(arguments[0], ir.IntType(32))  # AVX2 has no conversion to 64 bits
        whole = whole if single else builder.sext(whole, integer)
        exponent = builder.add(whole, ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, shift)), kind)

    def evaluate(typing: Any, n: Any) -> Any:
        return n(n), from_bits

    return intrinsic(evaluate)


@deferred(plain=max)
def larger() -> Any:
    """`larger(x, y)`, flagged so that LLVM finds vector code for a maximum over a loop, which it does not for max."""
    from numba.extending import intrinsic

    def choose(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = arguments
        above = builder.fcmp_ordered(">", x, y, flags=("fast",))
        return builder.select(above, x, y, flags=("fast",))

    def evaluate(typing: Any, x: Any, y: Any) -> Any:
        return x(x, x), choose

    return intrinsic(evaluate)


def _plain_take(counter: Any) -> int:
    counter[0] += 1
    return int(counter[0]) - 1


@deferred(plain=_plain_take)
def take() -> Any:
    """`take(counter)`: what counter[0], an int64, was before one was added; threads never get the same."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def add_one(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    def count(typing: Any, counter: Any) -> Any:
        return types.int64(counter), add_one

    return intrinsic(count)


def _plain_nothing() -> None:
    return None


@deferred(plain=_plain_nothing)
def vector_code() -> Any:
    """`vector_code()` tells LLVM about the calling function what helps it to find vector code.

    Its arrays do not overlap; vectors of 512 bits are welcome, where Intel's processors have them but LLVM settles for
    256.
    """
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def request(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        for argument in builder.function.args[2:]:  # behind those for the result and for exceptions
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    def evaluate(typing: Any) -> Any:
        return types.void(), request

    return intrinsic(evaluate)
