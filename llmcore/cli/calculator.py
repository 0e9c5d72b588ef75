"""A calculator: an expression is taken apart by Python's own parser, and only what stands here is computed.

>>> calculate("2 * (3 + 4) ** 2"), calculate("0.1 + 0.2"), calculate("sqrt(2)")
('98', '0.3', '1.4142135623731')
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

LONGEST = 1000  # characters of an expression
BITS = 10_000  # of a whole number: some 3,000 digits
BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda x, y: _power(x, y),
}
UNARY: dict[type, Callable] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
NAMES = {"pi": math.pi, "e": math.e, "tau": math.tau}
FUNCTIONS: dict[str, Callable] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "floor", "ceil", "gcd")},
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "hypot")},
    **{"degrees": math.degrees, "radians": math.radians, "factorial": lambda n: _factorial(n)},
    **{"abs": abs, "round": lambda x, n=0: _round(x, n), "min": min, "max": max},
}
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", "{": "(", "}": ")"})  # noqa: RUF001


def calculate(expression: str) -> str:
    """The value of an expression. Raises ValueError, which says what is wrong with it."""
    text = expression.translate(SIGNS).strip()
    if len(text) > LONGEST:
        raise ValueError(f"the expression has {len(text)} characters; at most {LONGEST} are computed")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{expression!r:.200} is not an expression like 2 * (3 + 4) / sqrt(5)") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None
    return str(value) if isinstance(value, int) else f"{value:.14g}"


def _value(node) -> Any:
    """The number that a part of the expression is."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _checked(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return _checked(BINARY[type(node.op)](_value(node.left), _value(node.right)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in FUNCTIONS:
            return _checked(FUNCTIONS[node.func.id](*map(_value, node.args)))
        raise ValueError(f"there is no function {node.func.id}; there are {', '.join(FUNCTIONS)}")
    if isinstance(node, ast.Tuple):
        raise ValueError("a comma stands between numbers; write 1000, not 1,000")
    raise ValueError(f"{ast.unparse(node)!r:.60} is neither a number nor something that is computed here")


def _checked(value):
    """The value, if it is a number of a size that can be shown."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(
        "a result is no real number" if isinstance(value, complex) else "a number is too large to be shown"
    )


def _power(x, y):
    if isinstance(x, int) and isinstance(y, int) and abs(y) * x.bit_length() > BITS:
        raise ValueError("a power is too large to be shown")
    return x**y


def _round(x, n):
    if abs(n) > 300:  # 10 to that power is computed
        raise ValueError(f"no number is rounded to {n} digits")
    return round(x, n) if n else round(x)


def _factorial(n):
    if n > 1000:
        raise ValueError("a factorial of more than 1000 is too large to be shown")
    return math.factorial(n)
