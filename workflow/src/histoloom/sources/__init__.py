"""Sources: the publishers' raw files, downloaded or taken from a local mirror, checked before they get their name."""

from histoloom.sources.registry import LISTS, registry_entry

__all__ = ["LISTS", "registry_entry"]
