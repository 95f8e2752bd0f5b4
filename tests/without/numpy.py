"""Takes numpy's place where a plan is tested, which does not need it."""

raise ImportError
