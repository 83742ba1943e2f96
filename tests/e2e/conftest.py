"""Programs that tests start as processes are not modules to collect."""

collect_ignore = ["killed.py", "poisoned.py"]
