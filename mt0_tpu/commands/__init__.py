"""Flags of the subcommands and what runs them, a file each; heavy imports wait until then."""
