"""Token ids as a reader sees them: pieces, special tokens, and what a vocabulary loses of a text.

Takes SeqIO's vocabulary objects and imports nothing of SeqIO.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from mt0_tpu.tasks.text_table import plural

_SENTINEL = re.compile(r"▁?(<extra_id_\d+>)")
_BYTE_OFFSET = 3  # ByteVocabulary: pad, eos, unk come before the bytes
_BYTE_SPECIALS = ("<pad>", "</s>", "<unk>")
_MOST_CHANGES = 4
_WHITE = (
    (r"\n", "newline", "newlines"),
    (r"[^\S\n]{2,}", "run of blanks", "runs of blanks"),
    (r"\t", "tab", "tabs"),
)
_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


@dataclasses.dataclass(frozen=True)
class Token:
    """One id.

    Attributes:
        id: the id.
        piece: its name in the vocabulary; ▁ stands for the blank before a word.
        special: whether it is no text: padding, EOS, unknown, a sentinel, an id beyond the
            vocabulary.
        blank: whether a blank comes before a special token.
    """

    id: int
    piece: str
    special: bool
    blank: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive tokens as text; a special token is a run of its own."""

    text: str
    special: bool


class TokenText:
    """A vocabulary to read ids with: SentencePiece, a tokenizer.json, bytes, another, or none."""

    def __init__(self, vocabulary: Any = None):
        kinds = {kind.__name__ for kind in type(vocabulary).__mro__}
        self._vocabulary = vocabulary
        self._processor = vocabulary.tokenizer if "SentencePieceVocabulary" in kinds else None
        self._file = vocabulary.tokenizer if "TokenizersVocabulary" in kinds else None
        self._bytes = "ByteVocabulary" in kinds
        self.readable = vocabulary is not None and "PassThroughVocabulary" not in kinds

    def tokens(self, ids: Sequence[int]) -> list[Token]:
        """Returns the piece of each id."""
        return [self._token(int(one)) for one in ids]

    def runs(self, ids: Sequence[int]) -> list[Run]:
        """Returns the text of the ids, each special token apart."""
        runs, waiting = [], []
        for token in self.tokens(ids):
            if token.special:
                runs += self._text(waiting, first=not runs)
                if token.blank and runs:
                    runs.append(Run(" ", False))
                runs.append(Run(token.piece, True))
                waiting = []
            else:
                waiting.append(token)
        return runs + self._text(waiting, first=not runs)

    def text(self, ids: Sequence[int]) -> str:
        """Returns the ids as one text, special tokens by their names."""
        return "".join(run.text for run in self.runs(ids))

    def _token(self, one: int) -> Token:
        if not self.readable:
            return Token(one, str(one), False)
        if not 0 <= one < self._vocabulary.vocab_size:
            return Token(one, f"<id {one}>", True)
        if self._processor:
            piece = self._processor.id_to_piece(one)
            if sentinel := _SENTINEL.fullmatch(piece):
                return Token(one, sentinel[1], True, blank=piece[0] == "▁")
            special = self._processor.is_control(one) or self._processor.is_unknown(one)
            return Token(one, piece, special)
        if self._file:
            special = self._file.is_special(one)
            # A part of a letter has no text of its own: its name in the file is shown.
            text = "\ufffd" if special else self._file.decode([one])
            return Token(one, self._file.piece(one) if "\ufffd" in text else text, special)
        if self._bytes:
            return self._byte(one)
        return Token(one, self._vocabulary.decode([one]), False)

    def _byte(self, one: int) -> Token:
        if one < _BYTE_OFFSET:
            return Token(one, _BYTE_SPECIALS[one], True)
        byte = one - _BYTE_OFFSET
        if byte > 255:  # sentinels count down from the last id
            return Token(one, f"<extra_id_{self._vocabulary.vocab_size - 1 - one}>", True)
        return Token(one, chr(byte) if 32 < byte < 127 else f"<0x{byte:02X}>", False)

    def _text(self, tokens: list[Token], first: bool) -> list[Run]:
        if not tokens:
            return []
        ids = [token.id for token in tokens]
        if not self.readable:
            return [Run(" ".join(map(str, ids)), False)]
        if not self._processor:
            return [Run(self._vocabulary.decode(ids), False)]
        # SentencePiece takes the blank off the beginning of whatever it decodes.
        blank = "" if first or not tokens[0].piece.startswith("▁") else " "
        return [Run(blank + self._processor.decode(ids), False)]


def marked(text: str) -> str:
    """Returns a text with its line ends, tabs and runs of blanks made visible."""
    text = re.sub(r"^ +| +$|  +", lambda found: "␣" * len(found[0]), text)
    return "".join(_MARKS.get(letter, letter) for letter in text)


def losses(source: str, seen: str) -> list[str]:
    """Returns what a vocabulary made of a text, in words; nothing where it kept all of it.

    Args:
        source: the text that was tokenised.
        seen: what its ids decode to.
    """
    if source == seen:
        return []
    found, total = [], 0
    for pattern, one, several in _WHITE:
        lost = len(re.findall(pattern, source)) - len(re.findall(pattern, seen))
        if lost > 0:
            total += lost
            found.append(f"{lost} {one if lost == 1 else several}")
    if found:
        found = [f"{', '.join(found)} became {'one blank' if total == 1 else 'a blank each'}"]
    if source != source.strip() and seen == seen.strip():
        found.append("blanks at the ends are gone")
    return found + _changes(source.split(), seen.split())


def _changes(source: list[str], seen: list[str]) -> list[str]:
    """Returns which letters became which, least context, most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    matcher = difflib.SequenceMatcher(None, source, seen, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        pairs = [(" ".join(source[a:b]), " ".join(seen[c:d]))]
        if b - a == d - c:  # word for word
            pairs = list(zip(source[a:b], seen[c:d], strict=True))
        for pair in pairs:
            changed = _core(*pair)
            counts[changed] = counts.get(changed, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    found = [
        f"'{old}' became '{new}'{f' ({count} times)' if count > 1 else ''}"
        for (old, new), count in ordered[:_MOST_CHANGES]
    ]
    more = len(ordered) - _MOST_CHANGES
    return [*found, plural(more, "more change")] if more > 0 else found


def _core(old: str, new: str) -> tuple[str, str]:
    """Returns two texts without the beginning and the end that they share."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    old, new, end = old[start:], new[start:], 0
    while end < min(len(old), len(new)) and old[-1 - end] == new[-1 - end]:
        end += 1
    return old[: len(old) - end][:40], new[: len(new) - end][:40]
