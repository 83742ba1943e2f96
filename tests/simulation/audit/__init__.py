"""The auditor's parts: what it reads from a ledger, and one module for each group of promises.

``findings`` (what is reported), ``journal``, ``stories`` and ``world`` (what is read, once),
``conditions`` (which events are meant), then the checks. Only ``folds`` uses the engine's code, to
compare its fold with itself; only ``results`` knows the random programs.
"""
