"""Every version of every fact that tables are made of can be read, many at once."""

import json
from pathlib import Path

import pytest

from stepfold_projections.decoding import HEADER_BYTES, KINDS, decode
from stepfold_projections.staging import FACTS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "schemas.json"
SAMPLES = {
    name: bytes.fromhex(one["bytes"])
    for name, one in json.loads(GOLDEN.read_text()).items()
    if name.partition(".v")[0] in FACTS
}


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_bytes_become_a_table(name: str) -> None:
    value = SAMPLES[name]
    assert KINDS[value[:HEADER_BYTES]].name == name
    assert decode([value] * 3, name.partition(".v")[0]).num_rows == 3
