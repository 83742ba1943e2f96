"""Exporting: runs with their histories, out of an engine, a folder, Kafka, or the tables of SQL."""
