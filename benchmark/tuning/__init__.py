"""Tuning of a testbed at a longer length: its settings, its loop, adapters on disk, and styles of its clips."""
