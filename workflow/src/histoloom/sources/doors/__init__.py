"""Doors: how each kind of host is asked where a file's bytes are and what they must be.

A door is a function ``locate(entry, web) -> Download``; `histoloom.sources.registry.DOORS` lists them. What follows:
resuming, retries, checks and names, is the same for all (`histoloom.sources.fetch`).
"""
