"""Kafka: the log, its topics, and a consumer group that shares partitions out to processes."""
