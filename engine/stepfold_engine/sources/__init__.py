"""Logs as projections read them (``stepfold_projections.source.Source``), from outside the engine.

The embedded log in a folder (``folder``), and a namespace on Kafka (``cluster``), which needs
Kafka's client and is therefore not imported here.
"""

from stepfold_engine.sources.folder import FolderSource

__all__ = ["FolderSource"]
