"""History: a disposable index of runs, made of the journals, for questions about runs.

It is never asked by the engine. If its file is missing, damaged or of another log, it is made
again from where the journals start.
"""

from stepfold_engine.history.absent import NoHistory
from stepfold_engine.history.index import History, short_id
from stepfold_engine.history.views import STATUSES, Outcome, RunFilter, RunView, Waiting

__all__ = [
    "STATUSES",
    "History",
    "NoHistory",
    "Outcome",
    "RunFilter",
    "RunView",
    "Waiting",
    "short_id",
]
