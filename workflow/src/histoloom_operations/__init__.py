"""What surrounds a run: checks before it, its plan, and a summary after it. The library does not import it."""
