"""The process that is soaked: the program of chaos, with shorter days.

What is forgotten after hours or days is forgotten after minutes here, so that an hour of load goes
through all of it many times: the ids of ended runs, answered requests, old events and journals.
"""

from stepfold_engine.core import partition

HOUR_S = 20
DAY_S = 120
PRUNE_S = 15.0

# Before anything else imports their values.
for _name, _seconds in (("HOUR_MS", HOUR_S), ("REMEMBERED_MS", DAY_S)):
    assert hasattr(partition, _name)
    setattr(partition, _name, _seconds * 1000)

from stepfold_engine import node  # noqa: E402 - as said above
from stepfold_engine.history import keeper  # noqa: E402 - as said above
from tests.chaos import program  # noqa: E402 - as said above

for _module, _name in ((node, "TRIM_EVENTS_EVERY_S"), (keeper, "PRUNE_EVERY_S")):
    assert hasattr(_module, _name)
    setattr(_module, _name, PRUNE_S)

if __name__ == "__main__":
    program.main()
