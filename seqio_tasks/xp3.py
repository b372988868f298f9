"""P3, xP3, xP3mt, xP3all, xP3x and xP3megds for plain SeqIO, and for users' own modules.

Importing it registers xP3's tasks and whatever collections lie in a local $MT0_DATA_DIR; what lies
in a bucket or on the Hub is listed only when it is named:

    from seqio_tasks import xp3

    xp3.ensure("xp3mt_sw")
    xp3.add_mixture("african", "xp3mt", languages=["sw", "yo", "zu"], rates="temperature")
    xp3.add_collection("mine", "/data/mine")

`mt0` needs none of this for the names of `docs/xp3.md`: it registers them as they are asked for.
"""

from __future__ import annotations

from seqio_tasks.xp3_tasks import (
    add_collection,
    add_mixture,
    at_hand,
    ensure,
    ensure_at_hand,
)

__all__ = ["add_collection", "add_mixture", "at_hand", "ensure"]

ensure_at_hand()
