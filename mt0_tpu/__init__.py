"""mT5 into mT0 and BLOOM into BLOOMZ, by multitask prompted finetuning, in JAX."""

__version__ = "0.1.0"
