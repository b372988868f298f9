"""What `mt0 plan` is made of: a run compiled for hardware that is not here, and counted."""
