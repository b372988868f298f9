"""Texts as 64-bit keys of their passages, to find the same passage elsewhere.

A text becomes units: words, and in scripts written without blanks (Chinese, Japanese, Thai, …)
characters, after NFKC, case folding and dropping punctuation. Its keys are

* every window of 13 words, a character counting for half a word (13-gram overlap as GPT-3's and
  T0's checks for contamination have it);
* every sentence or line that is shorter than a window but long enough to mean something: three
  units and fifteen letters, a Chinese or Japanese character counting three;
* every whole text of that length or more.

Two texts with the same passage share keys whatever stands around it: what is a window's end is
decided inside the window. Keys are polynomial hashes of 64 bits; with 10 million keys on one side
and 10 billion on the other, 0.005 false matches are to be expected.

What a text has in common with many others, its template, can be left out of account: units that
lie in windows of three words ("shingles") that are said to be template.

Dims: T texts, U units of all texts, K keys.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

WINDOW_WORDS = 13
SHINGLE_WORDS = 3
LEAST_UNITS, LEAST_LETTERS = 3, 15
_MOST_WORDS_KEPT = 1_000_000  # of the table of words seen, about 200 MB
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, hence invertible modulo 2^64
_END = "\0"
_SENTENCE_ENDS = '.!?\n\r:;"“”„«»…。！？：；「」『』।॥؟۔؛።၊။༎'
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_NO_FULL_STOP = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_UNSPACED = _IDEOGRAPHS + _NO_FULL_STOP


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of several texts.

    Attributes:
        keys_K: uint64.
        texts_K: int64, the text each belongs to.
        spans_K: int64 [K, 2], its units in the text, from and to.
        whole_K: bool, whether it is a sentence or a text rather than a window.
        shares_K: float32, of a sentence's words outside the template in all of those of its text,
            of a whole text 1.
        weights_T: int64, half words outside the template of every text; of a text without any,
            all its half words.
    """

    keys_K: np.ndarray
    texts_K: np.ndarray
    spans_K: np.ndarray
    whole_K: np.ndarray
    shares_K: np.ndarray
    weights_T: np.ndarray


def units(text: str) -> list[str]:
    """Returns the units of a text, in order, sentence ends as '\\0'."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = _enders().sub(_END, folded)
    if not folded.isascii() and _phrases().search(folded):
        folded = _phrases().sub(_END, folded)
    return _finder().findall(folded)


class Keyer:
    """Makes keys; remembers the words it has seen, up to a million."""

    def __init__(self):
        self._index = _Words()

    def __call__(self, texts: Sequence[str], template: np.ndarray | None = None) -> Keys:
        """Returns the keys of texts; a text's equal keys are kept apart.

        Args:
            texts: the texts.
            template: shingles that are boilerplate, sorted. Windows with less than half of their
                words outside, and sentences with less than the least outside, then have no key.
        """
        return self._units(texts).keys(template)

    def shingles(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the keys of all windows of three words, and the text each belongs to."""
        found = self._units(texts)
        (begin, end), keys = found.windows(2 * SHINGLE_WORDS)
        return keys, found.texts_U[begin]

    def _units(self, texts: Sequence[str]) -> _Units:
        if len(self._index) > _MOST_WORDS_KEPT:
            self._index = _Words()
        found = [units(text) for text in texts]
        sizes_T = np.fromiter(map(len, found), np.int64, len(found))
        numbers = map(self._index.__getitem__, itertools.chain.from_iterable(found))
        numbers = np.fromiter(numbers, np.int64, int(sizes_T.sum()))
        texts_U = np.repeat(np.arange(len(found)), sizes_T)
        ends_U = numbers == 0
        sentences_U = np.cumsum(ends_U)[~ends_U] + texts_U[~ends_U]
        columns = (column[numbers[~ends_U]] for column in self._index.columns())
        return _Units(len(found), texts_U[~ends_U], sentences_U, *columns)


class _Words(dict):
    """Unit → its number in growing columns of hash, weight in half words and letters."""

    def __init__(self):
        super().__init__({_END: 0})
        self._columns: list[list[int]] = [[0], [0], [0]]
        self._arrays = None

    def __missing__(self, unit: str) -> int:
        number = self[unit] = len(self)
        digest = hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        single = len(unit) == 1 and bool(_unspaced().match(unit))
        ideograph = single and bool(_ideographs().match(unit))
        row = (int.from_bytes(digest, "little"), 1 if single else 2, 3 if ideograph else len(unit))
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        return number

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (hash uint64, weight int64, letters int64) by number."""
        done = 0 if self._arrays is None else len(self._arrays[0])
        if done < len(self):
            fresh = [
                np.array(column[done:], dtype)
                for column, dtype in zip(
                    self._columns, (np.uint64, np.int64, np.int64), strict=True
                )
            ]
            old = self._arrays or [array[:0] for array in fresh]
            self._arrays = [np.concatenate(pair) for pair in zip(old, fresh, strict=True)]
        return tuple(self._arrays)


class _Units:
    """The units of several texts end to end, and keys of runs of them."""

    def __init__(self, num_texts, texts_U, sentences_U, hashes_U, halves_U, letters_U):
        self._num_texts = num_texts
        self.texts_U, self._sentences_U = texts_U, sentences_U
        self._halves_U, self._letters_U = halves_U, letters_U
        count = len(hashes_U)
        powers, self._inverses = _powers(count)
        self._prefix = np.zeros(count + 1, np.uint64)
        np.cumsum(hashes_U * powers[:count], out=self._prefix[1:])
        self._edges_T = _edges(texts_U)
        self._weight = _sums(halves_U)

    def _key(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        return (self._prefix[end] - self._prefix[begin]) * self._inverses[begin]

    def windows(self, halves: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the [2, n] begins and ends of windows of a weight inside a text, and keys."""
        begin = np.arange(len(self.texts_U))
        end = np.searchsorted(self._weight, self._weight[:-1] + halves, "left")
        inside = end <= np.repeat(self._edges_T[1:], np.diff(self._edges_T))
        spans = np.stack([begin[inside], end[inside]])
        return spans, self._key(*spans)

    def keys(self, template: np.ndarray | None) -> Keys:
        own_U = np.ones(len(self.texts_U), bool)
        if template is not None and len(template):
            own_U = ~self._covered(template)
        own_weight = _sums(self._halves_U * own_U)
        own_letters, own_units = _sums(self._letters_U * own_U), _sums(own_U)

        windows, _ = self.windows(2 * WINDOW_WORDS)
        begin, end = windows
        windows = windows[:, own_weight[end] - own_weight[begin] >= WINDOW_WORDS]
        begin, end = _edges(self._sentences_U)[:-1], _edges(self._sentences_U)[1:]
        kept = self._weight[end] - self._weight[begin] < 2 * WINDOW_WORDS
        kept &= own_units[end] - own_units[begin] >= LEAST_UNITS
        kept &= own_letters[end] - own_letters[begin] >= LEAST_LETTERS
        sentences = np.stack([begin, end])[:, kept]
        # The same text from beginning to end is the same example, template or not.
        begin, end = self._edges_T[:-1], self._edges_T[1:]
        letters = np.add.reduceat(self._letters_U, begin) if len(begin) else begin
        texts = np.stack([begin, end])[:, (end - begin >= LEAST_UNITS) & (letters >= LEAST_LETTERS)]
        # A text of one sentence is found as both; the text, which comes last, has share 1.
        begin, end = np.concatenate([windows, sentences, texts], 1)
        num_whole_texts, texts_K = texts.shape[1], self.texts_U[begin]
        own_T = np.bincount(self.texts_U, self._halves_U * own_U, self._num_texts)
        full_T = np.bincount(self.texts_U, self._halves_U, self._num_texts)
        weights_T = np.where(own_T > 0, own_T, full_T)
        shares_K = (own_weight[end] - own_weight[begin]) / weights_T[texts_K]
        shares_K[len(begin) - num_whole_texts :] = 1.0
        first = np.repeat(self._edges_T[:-1], np.diff(self._edges_T))[begin]
        return Keys(
            keys_K=self._key(begin, end),
            texts_K=texts_K,
            spans_K=np.stack([begin - first, end - first], 1),
            whole_K=np.arange(len(begin)) >= windows.shape[1],
            shares_K=shares_K.astype(np.float32),
            weights_T=weights_T.astype(np.int64),
        )

    def _covered(self, template: np.ndarray) -> np.ndarray:
        (begin, end), keys = self.windows(2 * SHINGLE_WORDS)
        places = np.minimum(np.searchsorted(template, keys), len(template) - 1)
        hit = template[places] == keys
        depth = np.zeros(len(self.texts_U) + 1, np.int64)
        np.add.at(depth, begin[hit], 1)
        np.add.at(depth, end[hit], -1)
        return np.cumsum(depth)[:-1] > 0


def _sums(values_U: np.ndarray) -> np.ndarray:
    """Returns the sums before each unit, and of all."""
    return np.concatenate([[0], np.cumsum(values_U)])


def _edges(groups_U: np.ndarray) -> np.ndarray:
    """Returns where runs of equal numbers begin, and the end of the last."""
    return np.flatnonzero(np.diff(groups_U, prepend=-1, append=-1))


_known_powers = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns at least `count` powers of the base and of its inverse, modulo 2^64."""
    global _known_powers
    if len(_known_powers[0]) < count:
        size = 1 << count.bit_length()
        inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
        _known_powers = tuple(
            np.cumprod(np.concatenate([[np.uint64(1)], np.full(size, base)]), dtype=np.uint64)
            for base in (_BASE, inverse)
        )
    return _known_powers


@functools.cache
def _finder() -> re.Pattern:
    """Finds a sentence end, a character of a script without blanks, or a word.

    Above U+FFFF everything counts as of a word: re is ten times slower with classes beyond it.
    """
    separators, begin = [], None
    for code in range(1, 0x10000):
        separates = unicodedata.category(chr(code))[0] in "PSZC"
        if separates and begin is None:
            begin = code
        elif not separates and begin is not None:
            separators.append(f"\\u{begin:04x}-\\u{code - 1:04x}")
            begin = None
    separators.append(f"\\u{begin:04x}-\\uffff" if begin else "")
    separated = "".join(separators)
    return re.compile(f"\\x00|[{_UNSPACED}]|[^\\x00{_UNSPACED}{separated}]+")


@functools.cache
def _enders() -> re.Pattern:
    return re.compile(f"[{re.escape(_SENTENCE_ENDS)}]+")


@functools.cache
def _phrases() -> re.Pattern:
    """Finds blanks beside Thai, Lao, Khmer or Burmese letters, which end a phrase or sentence."""
    return re.compile(f"(?<=[{_NO_FULL_STOP}])\\s+|\\s+(?=[{_NO_FULL_STOP}])")


@functools.cache
def _unspaced() -> re.Pattern:
    return re.compile(f"[{_UNSPACED}]")


@functools.cache
def _ideographs() -> re.Pattern:
    return re.compile(f"[{_IDEOGRAPHS}]")
