"""Conditions on episodes as text, such as ``return > 30 and length in [25, 50]``.

The text is parsed, never executed. It may hold names of columns, numbers, comparisons, ``in`` with
a list, ``and``, ``or``, ``not``, ``+ - * /`` and brackets. The return of one agent is
``return_<agent>``, or ``return["<agent>"]`` for a name with any characters.
"""

from __future__ import annotations

import ast
import json
import operator
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import MissingArrayError, UnknownNameError, UsageError
from kd_offline.types import Array, BoolArray

COLUMNS = ("length", "return", "seed", "won", "noise_level", "expert_id", "split")
"""Columns that a condition may use, besides ``episode`` and the returns of agents."""

_MAX_CHARACTERS = 2000  # also limits the depth of nesting
_MAX_NUMBER = 2**64
# ``return`` is a Python keyword, so it is parsed under another name, except in quotes.
_RETURN = re.compile(r"""("[^"]*"|'[^']*')|\breturn\b""")
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COMPUTE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_GRAMMAR = (
    "it may hold columns, numbers, comparisons, in [...], and, or, not, + - * / and brackets, such "
    "as 'return > 30 and noise_level == 0'"
)


def column_names(buffer: ExpertBuffer) -> list[str]:
    """Return the names that a condition on the episodes of ``buffer`` may use."""
    known = [name for name in COLUMNS if buffer.has(f"episodes/{name}")]
    return ["episode", *known, *map(_return_of, buffer.spec.agents)]


def _return_of(agent: str) -> str:
    """Return the name of an agent's return in a condition."""
    plain = f"return_{agent}"
    # Python's parser normalises names, but not text in quotes.
    if plain.isidentifier() and unicodedata.normalize("NFKC", plain) == plain:
        return plain
    return f"return[{json.dumps(agent, ensure_ascii=False)}]"


def episodes_where(buffer: ExpertBuffer, condition: str) -> BoolArray:
    """Return which episodes meet ``condition``, bool [E].

    Raises
    ------
    UsageError
        The text is no condition of the allowed kind.
    UnknownNameError, MissingArrayError
        It names a column that there is not.
    """
    return _Condition(buffer, condition).evaluate()


class _Condition:
    """One condition on the episodes of one dataset."""

    def __init__(self, buffer: ExpertBuffer, text: str) -> None:
        self._buffer = buffer
        self._text = text

    def evaluate(self) -> BoolArray:
        if len(self._text) > _MAX_CHARACTERS:
            msg = f"the condition has {len(self._text)} characters: {_MAX_CHARACTERS} are the most"
            raise UsageError(msg)
        text = _RETURN.sub(lambda word: word[1] or "return_", self._text.strip())
        try:
            tree = ast.parse(text, mode="eval").body
            with np.errstate(all="ignore"):  # division by zero gives NaN or infinity
                value = self._condition(tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, UsageError):
                raise
            raise self._refused(None, "it cannot be read") from None
        return np.broadcast_to(value, (self._buffer.n_episodes,))

    def _condition(self, node: ast.expr) -> Array:
        """Return the truth of a node for each episode."""
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return np.asarray(join.reduce(np.broadcast_arrays(*map(self._condition, node.values))))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return np.logical_not(self._condition(node.operand))
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        raise self._refused(node, "is not a comparison")

    def _comparison(self, node: ast.Compare) -> Array:
        """Return the truth of a comparison such as ``a < b <= c``."""
        terms, truth = [node.left, *node.comparators], np.asarray(True)
        for left, op, right in zip(terms[:-1], node.ops, terms[1:], strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                is_member = self._among(left, right)
                holds = ~is_member if isinstance(op, ast.NotIn) else is_member
            elif type(op) in _COMPARE:
                holds = np.asarray(_COMPARE[type(op)](self._number(left), self._number(right)))
            else:
                raise self._refused(node, "compares in a way that is not allowed")
            truth = truth & holds
        return truth

    def _among(self, left: ast.expr, right: ast.expr) -> Array:
        if not isinstance(right, ast.List | ast.Tuple):
            raise self._refused(right, "is not a list such as [1, 2]")
        value, is_member = self._number(left), np.asarray(False)
        for entry in right.elts:
            is_member = is_member | (value == self._number(entry))
        return is_member

    def _number(self, node: ast.expr) -> Array:
        """Return the value of a node for each episode, or one for all."""
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._column("return" if node.id == "return_" else node.id)
        if isinstance(node, ast.Subscript) and _is_return(node.value):
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                return self._return(node.slice.value)
            raise self._refused(node, "does not name an agent in quotes")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self._number(node.operand).astype(np.float64)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp) and type(node.op) in _COMPUTE:
            left, right = (self._number(x).astype(np.float64) for x in (node.left, node.right))
            return np.asarray(_COMPUTE[type(node.op)](left, right))
        raise self._refused(node, "is not allowed")

    def _constant(self, node: ast.Constant) -> Array:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float) or value > _MAX_NUMBER:
            raise self._refused(node, "is not a number that can be compared")
        fits_int64 = isinstance(value, int) and value < np.iinfo(np.int64).max
        return np.asarray(value, np.int64 if fits_int64 else np.float64)

    def _column(self, name: str) -> Array:
        allowed = column_names(self._buffer)
        if name in COLUMNS and name not in allowed:
            msg = (
                f"the dataset at {self._buffer.where!r} does not hold {name!r} of its episodes: it "
                f"has {', '.join(allowed)}"
            )
            raise MissingArrayError(msg)
        if name not in allowed:
            raise UnknownNameError(what="column", got=name, allowed=allowed)
        if name == "episode":
            return np.arange(self._buffer.n_episodes)
        if name in COLUMNS:
            return _written_numbers(self._buffer.episodes(name))
        return self._return(name.removeprefix("return_"))

    def _return(self, agent: str) -> Array:
        agents = self._buffer.spec.agents
        if agent not in agents:
            allowed = column_names(self._buffer)
            raise UnknownNameError(what="column", got=_return_of(agent), allowed=allowed)
        values: Array = self._buffer.episodes("agent_return")[:, agents.index(agent)]
        return values

    def _refused(self, node: ast.expr | None, what: str) -> UsageError:
        part = node and repr(re.sub(r"\breturn_\b", "return", ast.unparse(node)))
        reason = f"{part} {what}" if part else what
        return UsageError(f"the condition {self._text!r} is not understood: {reason}; {_GRAMMAR}")


def _is_return(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "return_"


def _written_numbers(values: Array) -> Array:
    """Return float32 values as people write them: 0.1 instead of 0.100000001."""
    if values.dtype != np.float32:
        return values
    distinct, index = np.unique(values, return_inverse=True)
    return np.array([float(str(value)) for value in distinct])[index]
