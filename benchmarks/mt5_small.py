"""mT5-small, the network that the benchmarks and facts/peers.md share; float32, no dropout."""

from mt0_tpu.models.t5 import T5Config

MT5_SMALL = T5Config(
    vocab_size=250112,
    emb_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
    dropout_rate=0.0,
    dtype="float32",
)
