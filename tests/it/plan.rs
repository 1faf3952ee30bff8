//! Plans as golden tests: they run anywhere, and start nothing.
