"""Text from the ids of a byte-level BPE tokenizer.json, such as BLOOM's."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from mt0_tpu.errors import UserError


class BytePairs:
    """The pieces of a tokenizer.json."""

    def __init__(self, path: str):
        """Reads the file; UserError when it is no tokenizer.json of byte-level BPE."""
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            vocabulary = content["model"]["vocab"].items()
            special = {token["id"] for token in content.get("added_tokens", [])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no tokenizer.json of byte-level BPE ({error})") from None
        # Special tokens are no text.
        self._pieces = {number: piece for piece, number in vocabulary if number not in special}

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special tokens and ids without a piece are left out."""
        letters = _bytes_of_letters()
        pieces = "".join(self._pieces.get(one, "") for one in ids)
        return bytes(letters[letter] for letter in pieces if letter in letters).decode(
            "utf-8", "replace"
        )


@functools.cache
def _bytes_of_letters() -> dict[str, int]:
    """Returns which byte each letter of a piece stands for.

    Bytes that print are written as themselves, the others as the letters from U+0100 on.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printed)]
    return {chr(byte): byte for byte in printed} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
