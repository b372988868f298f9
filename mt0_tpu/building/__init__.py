"""`mt0 tasks build` and `prompts`: raw data and prompts into a collection."""
