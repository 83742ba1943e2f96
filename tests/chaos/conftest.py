"""Programs are not modules to collect: this one shortens the engine's days when it is imported."""

collect_ignore = ["soaked.py"]
