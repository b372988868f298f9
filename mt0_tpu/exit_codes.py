"""What the `mt0` command's exit codes mean to whoever started it."""

from __future__ import annotations

# A mistake of the user's: started again, it would end the same way.
USER_ERROR = 2
# Stopped from outside (preemption, maintenance, a time limit), or because another process of the
# job died: the same command goes on where it was. xpk starts jobs again on 42 and 127-255, and
# of these 42 alone is no signal's, so that SLURM and Kubernetes rules can name it.
REQUEUE = 42
# Ctrl-C, as shells have it.
INTERRUPTED = 130
