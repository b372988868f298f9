"""Text to token ids and back, without SeqIO or TensorFlow.

The same ids as SeqIO's SentencePieceVocabulary(extra_ids=0) and ByteVocabulary, and as our
TokenizersVocabulary; used where text
comes in or goes out and no task is run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from mt0_tpu.errors import UserError, did_you_mean

PAD_ID = 0
EOS_ID = 1


class TextVocabulary(Protocol):
    """What infer and evaluate need of a vocabulary.

    Attributes:
      size: ids there are.
      eos_id: ends a text.
      inputs_eos: whether inputs end in it where nothing else is said.
      choices_eos: whether answer choices do.
      target_prefix: what comes before a target or choice, '' or a blank.
    """

    size: int
    eos_id: int
    inputs_eos: bool
    choices_eos: bool
    target_prefix: str

    def encode(self, text: str) -> list[int]:
        """Returns ids without EOS."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text up to the first EOS; padding is left out."""


def content(ids: Iterable[int], eos_id: int = EOS_ID, pad_id: int | None = PAD_ID) -> list[int]:
    """Returns the ids before the first EOS, without padding.

    A `pad_id` of None leaves nothing out: BLOOM's 0 is a token.
    """
    kept = []
    for one in ids:
        if one == eos_id:
            break
        if one != pad_id:
            kept.append(int(one))
    return kept


class SentencePieceText:
    """A SentencePiece model file with pad 0 and EOS 1, as mT5's and T5's are."""

    eos_id, inputs_eos, choices_eos, target_prefix = EOS_ID, True, True, ""

    def __init__(self, path: Path):
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} is not a SentencePiece model: {error}") from None
        if self._processor.eos_id() != EOS_ID:
            raise UserError(
                f"{path} has EOS {self._processor.eos_id()}; T5's vocabularies have EOS {EOS_ID} "
                "and padding 0: name the .model file that the checkpoint was trained with"
            )
        self.size = self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Returns ids without EOS."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text up to the first EOS; a padding row of the table reads as unknown."""
        unknown = self._processor.unk_id()
        return self._processor.decode([one if one < self.size else unknown for one in content(ids)])


class ByteText:
    """ByT5's: UTF-8 byte b is id b + 3; 0 padding, 1 EOS, 2 unknown, 125 ids spare at the end."""

    eos_id, inputs_eos, choices_eos, target_prefix = EOS_ID, True, True, ""
    offset = 3
    size = 256 + 3

    def encode(self, text: str) -> list[int]:
        """Returns ids without EOS."""
        return [byte + self.offset for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text up to the first EOS; what is no UTF-8 is dropped, as in SeqIO."""
        low, high = self.offset, self.offset + 256
        return bytes(one - low for one in content(ids) if low <= one < high).decode(
            "utf-8", errors="ignore"
        )


class TokenizerJsonText:
    """A tokenizer.json, such as BLOOM's, with the text of BLOOMZ.

    Inputs go without EOS, a blank comes before targets and choices, and choices, as in the
    published evaluation, have no EOS either.
    """

    inputs_eos, choices_eos, target_prefix = False, False, " "

    def __init__(self, path: Path):
        from seqio_tasks.tokenizer_json import TokenizerJson

        try:
            self._file = TokenizerJson(path)
        except ValueError as error:
            raise UserError(str(error).rstrip(".")) from None
        self.size, self.eos_id = self._file.size, self._file.eos_id

    def special_ids(self) -> dict[str, int | None]:
        """Returns the special tokens under transformers' names, such as 'eos_token_id'."""
        names = ("bos", "eos", "pad")
        return {f"{name}_token_id": getattr(self._file, f"{name}_id") for name in names}

    def encode(self, text: str) -> list[int]:
        """Returns ids without EOS."""
        return self._file.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text up to the first EOS; a padding row of the table reads as unknown."""
        return self._file.decode(content(ids, self.eos_id, pad_id=None))


def open_vocabulary(name: str) -> TextVocabulary:
    """Opens 'mini', 'byt5', or the SentencePiece model or tokenizer.json at a path.

    Raises UserError where there is no such vocabulary.
    """
    from seqio_tasks import tokenizer_json

    if name == "byt5":
        return ByteText()
    path = mini_model() if name == "mini" else Path(name)
    if tokenizer_json.is_named(path):
        return TokenizerJsonText(path)
    if path.is_dir():
        path = path / "spiece.model"
    if not path.is_file():
        raise UserError(
            f"there is no vocabulary {name!r}; write 'mini', 'byt5' or the path of a SentencePiece "
            "model (mT5's is spiece.model) or of a tokenizer.json (BLOOM's)."
            f"{did_you_mean(name, ('mini', 'byt5'))}"
        )
    return SentencePieceText(path)


def mini_model() -> Path:
    """Returns where mini-xP3's SentencePiece model is, whether or not it exists."""
    # Found, not imported: importing seqio_tasks' vocabularies would load TensorFlow.
    spec = importlib.util.find_spec("seqio_tasks")
    folder = Path(next(iter(spec.submodule_search_locations))) if spec else Path()
    return folder / "mini.model"


def check_size(vocabulary: TextVocabulary, rows: int, name: str) -> None:
    """Raises UserError where the vocabulary has more ids than the embedding has rows.

    More rows than ids is the rule: tables are padded for even sharding (mT5's 250,100 pieces
    have 250,112 rows), and the rows too many are never drawn by a trained model.
    """
    if vocabulary.size > rows:
        raise UserError(
            f"vocabulary {name!r} has {vocabulary.size} ids, but the model's embedding has only "
            f"{rows} rows (model.vocab_size); name the vocabulary that the checkpoint was trained "
            "with"
        )
    # Padding to a multiple of 128 (mT5) or spare ids (ByT5: 125) explain this much and no more.
    if rows - vocabulary.size > 512:
        raise UserError(
            f"vocabulary {name!r} has {vocabulary.size} ids, but the model's embedding has "
            f"{rows} rows; padding explains up to 512 (mT5: 250100 pieces, 250112 rows), so this "
            "is another vocabulary: name the one that the checkpoint was trained with"
        )
