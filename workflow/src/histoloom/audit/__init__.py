"""The content guard: sections that are the same under other names, found by what they hold and not by what they say."""

from histoloom.audit.guard import audit_sections

__all__ = ["audit_sections"]
