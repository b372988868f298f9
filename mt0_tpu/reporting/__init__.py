"""The HTML report of runs: what it reads, how it is laid out, what it says."""
