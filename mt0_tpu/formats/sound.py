"""Checks of weights on their way: shapes, values, and the vocabulary that belongs to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats.shape_of import describe, shape_of
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.text_vocabulary import TokenizerJsonText

MT5_PIECES = 250_100
MT5_ROWS = 250_112
PAD_ID, EOS_ID = 0, 1
# Outside the model file in T5's own vocabulary, inside it in mT5's.
_SENTINELS = 100
_KNOWN_ROWS = {
    MT5_ROWS: "mT5's: 250,100 pieces, 100 sentinels among them, and 12 rows of padding",
    32128: "T5's: 32,000 pieces, 100 sentinels and 28 rows of padding",
    256384: "umT5's: 256,000 pieces, sentinels and padding",
    384: "ByT5's: 256 bytes, 3 special ids and 125 spare ones",
    250880: "BLOOM's: 250,680 ids and 200 rows of padding",
}
# Rows are padded for even sharding; this much is explained by that and no more.
_MAX_SPARE_ROWS = 512
_BLOCK = 1 << 22


def check_tensors(weights: Weights, config: NetworkConfig | None = None) -> NetworkConfig:
    """Returns the configuration the tensors fit; None finds it from them.

    Raises UserError naming what is missing, unknown or of another shape.
    """
    config = config or shape_of(weights)
    wanted = {name: tuple(leaf.shape) for name, leaf in names.expected(config).items()}
    found = {name: info.shape for name, info in weights.tensors().items()}
    wrong = [
        f"{name}: expected {wanted.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise UserError(
            f"{weights.path} ({weights.kind}) is not the network {describe(config)}: "
            f"{'; '.join(wrong[:6])}{more}; use the model gin of its size, or copy it anew if "
            "parts are missing"
        )
    return config


def check_network(weights: Weights, config: NetworkConfig) -> None:
    """Raises UserError where weights say of their network what another one is to compute.

    Shapes are checked where tensors are placed; BLOOM's heads, norms and residuals are in none.
    """
    said = weights.config
    if said is None or not (said.decoder_only and config.decoder_only):
        return
    wrong = [
        f"{name} {getattr(said, name)}, and the model {getattr(config, name)}"
        for name in ("num_heads", "layer_norm_epsilon", "residual_post_layernorm")
        if getattr(said, name) != getattr(config, name)
    ]
    if wrong:
        raise UserError(
            f"{weights.path} ({weights.kind}) has {'; '.join(wrong)}: the tensors fit, and would "
            "compute something else; use the model gin of its size (gin/models/bloom)"
        )


def check_values(name: str, array: np.ndarray, where: str) -> None:
    """Raises UserError saying how many values of a tensor are NaN or infinite, and the first.

    Integers pass. Only a few MiB beside the tensor are used.
    """
    # Whichever way round it lies in memory: the other one would be a copy of all of it.
    turned = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = (array.T if turned else array).reshape(-1)
    if not _is_float(flat.dtype):
        return
    bad, first = 0, None
    for start in range(0, flat.size, _BLOCK):
        good = np.isfinite(flat[start : start + _BLOCK])
        if not good.all():
            bad += int(good.size - np.count_nonzero(good))
            first = start + int(np.argmin(good)) if first is None else first
    if first is not None:
        at = tuple(
            int(i) for i in np.unravel_index(first, array.shape, order="F" if turned else "C")
        )
        raise UserError(
            f"{where}: {bad} of {array.size} values of {name} are NaN or infinite, the first at "
            f"{at} ({flat[first]}); training diverged or the file is damaged: use an earlier "
            "checkpoint or copy it anew"
        )


def _is_float(dtype: np.dtype) -> bool:
    # ml_dtypes' bfloat16 is no np.floating.
    return np.issubdtype(dtype, np.floating) or dtype.name in ("bfloat16",)


class Checked(Weights):
    """The same weights, every tensor checked for NaN and infinity as it is read."""

    def __init__(self, weights: Weights):
        self._weights = weights
        self.kind, self.path, self.step = weights.kind, weights.path, weights.step
        self.config = weights.config

    def tensors(self) -> dict[str, TensorInfo]:
        return self._weights.tensors()

    def state_tensors(self) -> dict[str, TensorInfo]:
        return self._weights.state_tensors()

    def read(self, name: str) -> np.ndarray:
        return self._checked(name, self._weights.read(name))

    def read_state(self, name: str) -> np.ndarray:
        return self._checked(name, self._weights.read_state(name))

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        check_values(name, array, f"{self.path} ({self.kind})")
        return array


def check_words(path: str | Path, network: NetworkConfig) -> TokenizerJsonText | None:
    """Checks the vocabulary of a network, and returns it where it is a tokenizer.json of a BLOOM.

    mT5's, and that of a BLOOM trained on the mini mixtures, is a SentencePiece model.
    """
    if network.decoder_only and Path(path).suffix != ".model":
        return check_tokenizer(path, network.vocab_size)
    check_vocabulary(path, network.vocab_size)
    return None


def check_tokenizer(path: str | Path, rows: int) -> TokenizerJsonText:
    """Returns a BLOOM's tokenizer; UserError unless it belongs to an embedding of so many rows.

    Args:
      path: tokenizer.json, or the folder that holds it.
    """
    words = TokenizerJsonText(Path(path))
    check_rows(words.size, rows, str(path))
    return words


def check_vocabulary(model_file: str | Path, rows: int) -> None:
    """Raises UserError unless a SentencePiece model belongs to an embedding of so many rows.

    Checks padding 0 and EOS 1, sentinels counting down from the last piece, where the model
    has them, and that padding explains the rows that no piece has.
    """
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{model_file} is not a SentencePiece model ({reason})") from None
    if (pieces.pad_id(), pieces.eos_id()) != (PAD_ID, EOS_ID):
        raise UserError(
            f"{model_file} has padding {pieces.pad_id()} and EOS {pieces.eos_id()}; T5's and mT5's "
            "vocabularies have padding 0 and EOS 1: give the .model file of the checkpoint"
        )
    count = pieces.get_piece_size()
    inside = _check_sentinels(pieces, model_file)
    check_rows(count if inside else count + _SENTINELS, rows, str(model_file))


def _check_sentinels(pieces, model_file: str | Path) -> bool:
    """Whether the model holds <extra_id_0> as its last piece and so on downwards."""
    count = pieces.get_piece_size()
    last = [
        pieces.id_to_piece(count - 1 - i).lstrip("\u2581") for i in range(min(_SENTINELS, count))
    ]
    here = [i for i, piece in enumerate(last) if piece.startswith("<extra_id_")]
    if not here:
        return False
    wrong = [i for i in here if last[i] != f"<extra_id_{i}>"]
    if wrong:
        i = wrong[0]
        raise UserError(
            f"{model_file} has {last[i]} as id {count - 1 - i}, where mT5's vocabulary has "
            f"<extra_id_{i}>: sentinels count down from the last piece; give the .model file of "
            "the checkpoint"
        )
    return True


def check_rows(num_ids: int, rows: int, vocabulary: str) -> None:
    """Raises UserError unless an embedding of `rows` rows can be a vocabulary's of `num_ids`."""
    spare = rows - num_ids
    fits = 0 <= spare <= _MAX_SPARE_ROWS
    if rows == MT5_ROWS:
        fits = num_ids == MT5_PIECES
    if fits:
        return
    known = f" ({rows:,} rows are {_KNOWN_ROWS[rows]})" if rows in _KNOWN_ROWS else ""
    raise UserError(
        f"{vocabulary} has {num_ids:,} ids and the embedding {rows:,} rows{known}: they do not "
        "belong together; give the vocabulary that the checkpoint was trained with"
    )


def check_ids(where: str, *, pad: int | None, eos: int | None, decoder_start: int | None) -> None:
    """Raises UserError unless a configuration says pad 0, EOS 1 and to decode from pad."""
    found = {"pad_token_id": pad, "eos_token_id": eos, "decoder_start_token_id": decoder_start}
    wanted = {"pad_token_id": PAD_ID, "eos_token_id": EOS_ID, "decoder_start_token_id": PAD_ID}
    wrong = [
        f"{key} {found[key]} instead of {wanted[key]}"
        for key in wanted
        if found[key] is not None and found[key] != wanted[key]
    ]
    if wrong:
        raise UserError(
            f"{where} has {', '.join(wrong)}; T5's and mT5's networks were trained with padding 0, "
            "EOS 1 and decoding from padding: correct it, or give weights of mT5"
        )
