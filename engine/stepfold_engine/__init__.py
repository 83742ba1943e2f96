"""The engine: partitions of durable runs on an append-only log."""
