"""Replaying: a run's code is run again against its recorded history, anywhere, without an engine.

Steps return or raise what they did then; no body of a step runs, nothing is sent or written.
"""
