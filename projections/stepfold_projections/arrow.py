"""Arrow's library. It ships no types, so that here they end: its values are ``Any``."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false

from typing import Any

import pyarrow as _arrow  # noqa: ICN001 - `pa` is what is declared below
import pyarrow.compute as _compute
import pyarrow.parquet as _parquet

pa: Any = _arrow
pc: Any = _compute
pq: Any = _parquet

ArrowTable = Any
"""A ``pyarrow.Table``."""
