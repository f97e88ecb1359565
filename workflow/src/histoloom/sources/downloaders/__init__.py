"""Downloaders: how each kind of host is asked where a file's bytes are and what they must be.

A downloader is a function ``locate(entry, web) -> Download``; `histoloom.sources.registry.DOWNLOADERS` lists them.
Resuming, retries, checks and names are the same for all (`histoloom.sources.fetch`).
"""
