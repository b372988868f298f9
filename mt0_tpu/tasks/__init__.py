"""`mt0 tasks`: list, show, stats, check, fetch."""
