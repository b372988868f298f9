"""What a chip of each TPU generation can do: the constants of every estimate, in one table.

Sources: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e as of 2026; of v2 and v3 the page
system-architecture there, and for their links N. Jouppi et al., "A domain-specific supercomputer
for training deep neural networks", CACM 63(7), 2020. `link_bytes_per_s` is what one link carries
in one direction: the page's figure of a chip (v4 2400, v5e 1600, v5p 4800, v6e 3200 Gbit/s) over
its links. `usable_hbm_gib` is what the compiler of libtpu 0.0.42 says a program may use.
`dcn_bytes_per_s` is a chip's share of its host's network cards: 2 x 100 Gbit/s for 8 chips on v5e's
page; that of the others is ASSUMED: 100 Gbit/s for the 4 chips of a host, 200 for v5p and v6e.
`host_bytes_per_s`, PCIe in one direction, is ASSUMED: 15e9 for every chip, the round figure of
J. Austin et al., "How to scale your model", 2025, part 2.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one chip unless they say otherwise.

    Attributes:
      flops_per_s: peak of bfloat16 products.
      usable_hbm_gib: of one JAX device, left for a program; v2 and v3 show two devices a chip.
      hbm_bytes_per_s: read and written.
      link_bytes_per_s: one interconnect link, one direction.
      dcn_bytes_per_s: sent to other slices.
      host_bytes_per_s: to or from the memory of its host.
      config: what libtpu calls the arrangement of a chip's cores.
    """

    flops_per_s: float
    usable_hbm_gib: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float
    dcn_bytes_per_s: float
    config: str | None = None
    host_bytes_per_s: float = 15e9


#          products, HBM GiB and B/s, link B/s, DCN B/s
CHIPS = {
    "v2": Chip(46e12, 7.48, 700e9, 62e9, 3.1e9),
    "v3": Chip(123e12, 15.48, 900e9, 82e9, 3.1e9),
    "v4": Chip(275e12, 30.75, 1200e9, 50e9, 3.1e9, "megacore"),
    "v5e": Chip(197e12, 15.75, 819e9, 50e9, 3.1e9),
    "v5p": Chip(459e12, 95.74, 2765e9, 100e9, 6.2e9, "megachip_tccontrol"),
    "v6e": Chip(918e12, 31.25, 1638e9, 100e9, 6.2e9),
}
# A collective runs along one dimension of the torus, sending both ways round.
LINKS_OF_A_COLLECTIVE = 2
