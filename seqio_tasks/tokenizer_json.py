"""A tokenizer.json of Hugging Face `tokenizers`, such as BLOOM's: byte-level BPE with its ids.

Imports neither SeqIO nor TensorFlow: `mt0 infer` and the checkpoints' rooms read it too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILE = "tokenizer.json"
# Files that call these otherwise say so in the settings beside them.
_SPECIALS = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}
_SETTINGS = "tokenizer_config.json"
_THREADS = "TOKENIZERS_PARALLELISM"


def is_named(path: str | os.PathLike | None) -> bool:
    """Whether a path means a tokenizer.json: by its ending, or a folder that holds one.

    A folder that holds spiece.model too means that one.
    """
    if not path:
        return False
    path = os.fspath(path)
    if path.endswith(".json"):
        return True
    folder = Path(path)
    return (folder / FILE).is_file() and not (folder / "spiece.model").is_file()


class TokenizerJson:
    """Text to ids and back, as `tokenizers` itself does it, without BOS or EOS.

    Special tokens written in a text, such as `</s>`, are tokens, as they are to transformers.

    Attributes:
      path: of the file.
      content: its bytes.
      size: the largest id and one.
      unk_id, bos_id, eos_id, pad_id: None where the file has no such token, but for EOS.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads a tokenizer.json, or that of a folder.

        Raises:
          ValueError: there is none, it is damaged or has no end of sequence.
        """
        path = os.fspath(path)
        self.path = os.path.join(path, FILE) if os.path.isdir(path) else path
        self.content = _read(self.path)
        self._tokenizer = _parsed(self.path, self.content)
        # A file may say to cut or to fill up its texts; what a row takes is decided elsewhere.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        ids = {name: self._tokenizer.token_to_id(token) for name, token in self._names().items()}
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = map(ids.get, _SPECIALS)
        if self.eos_id is None:
            raise ValueError(
                f"{self.path} has no token {self._names()['eos']} to end a text with; name the "
                "tokenizer.json of the checkpoint, and its tokenizer_config.json beside it."
            )
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {one for one, token in added.items() if token.special}
        # <unk> stays: it stands for ids of the table's padding rows too.
        self._silent = {self.bos_id, self.eos_id, self.pad_id} - {self.unk_id, None}

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """Returns the ids of each text; `threads` above 1 takes all the machine's cores."""
        # The library asks for its variable at every call; processes side by side each want one.
        before = os.environ.get(_THREADS)
        os.environ[_THREADS] = "true" if threads > 1 else "false"
        try:
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        finally:
            if before is None:
                del os.environ[_THREADS]
            else:
                os.environ[_THREADS] = before
        return [one.ids for one in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids without BOS, EOS and padding; unknown ids as `<unk>`."""
        known = [int(one) for one in ids if int(one) not in self._silent]
        if self.unk_id is not None:
            known = [one if 0 <= one < self.size else self.unk_id for one in known]
        return self._tokenizer.decode(known, skip_special_tokens=False)

    def piece(self, one: int) -> str:
        """Returns the name of an id in the file, '' where it has none."""
        return self._tokenizer.id_to_token(int(one)) or ""

    def is_special(self, one: int) -> bool:
        """Whether an id is no text."""
        return int(one) in self._special

    def _names(self) -> dict[str, str]:
        """Returns the four special tokens' names, from the settings beside the file if any."""
        found = dict(_SPECIALS)
        try:
            settings = json.loads(_read(os.path.join(os.path.dirname(self.path), _SETTINGS)))
        except ValueError:  # none is there, or none that can be read: the usual names
            return found
        for name in found if isinstance(settings, dict) else ():
            token = settings.get(f"{name}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[name] = token
        return found


def _read(path: str) -> bytes:
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as file:
                return file.read()
        return Path(path).read_bytes()
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ValueError(
            f"{path} cannot be read: {why}; write the path of a tokenizer.json, or of the folder "
            "that holds it (BLOOM's lies beside its weights, e.g. in bigscience/bloom-560m)."
        ) from None


def _parsed(path: str, content: bytes) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"{path} is no tokenizer.json or is damaged ({len(content):,} bytes; {error}); copy it "
            "again from where it came from."
        ) from None
