"""CEL expressions over events, in the dialect of the wire protocol, and conditions made of them.

An expression is parsed by celpy's grammar and evaluated by our own code, because the dialect
differs from CEL and every event may ask many expressions. Rules:

* A missing path is no error. It equals null and nothing else, is less than everything, has the
  size 0, adds nothing, and makes other functions false.
* Whole numbers and doubles compare and calculate with each other; a text takes a number by ``+``.
* ``||``, ``&&`` and ``?:`` take what JavaScript takes for true, and give it back.
* An error, or a result other than true, is no match.
* No text and no event makes an evaluation hang or crash: there are limits on an expression's
  length and depth and on the work of one evaluation.
"""

from stepfold_engine.expressions.conditions import bind, holds, value_at
from stepfold_engine.expressions.expression import Expression, compile_expression
from stepfold_engine.expressions.values import canonical

__all__ = ["Expression", "bind", "canonical", "compile_expression", "holds", "value_at"]
