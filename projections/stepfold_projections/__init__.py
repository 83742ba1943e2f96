"""Projections: folds of the log into DuckDB tables that people ask with SQL. Disposable.

They read the log through a port (``source.Source``) and know nothing of the engine. Everything
here can be deleted and is made again from the log; only history that is older than the log lies
nowhere else.
"""
