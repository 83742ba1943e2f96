"""The broker that all tests share."""

from tests.parts.broker import kafka

__all__ = ["kafka"]
