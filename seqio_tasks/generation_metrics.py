"""Metrics of generated text in SeqIO's form: BLEU and chrF by sacrebleu, and ROUGE.

    seqio.TaskRegistry.add(…, metric_fns=[bleu_for("zh"), chrf, rouge])

A target is a text, or a list of texts where an example has several references. All scores run
from 0 to 100. sacrebleu's go by its own names, and beside each stands its signature, the text that
makes a score comparable with others.

ROUGE is our own: rouge_score (0.1.2, of 2022) keeps the letters a to z and the digits alone, so
that Hindi or Chinese scores 0 against itself. On English text the two agree (a test holds them to
it); here a word is a run of letters, marks and digits of any script, and where words are written
without blanks between them every character with its marks is a word.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MetricFn = Callable[[Sequence, Sequence], dict[str, Any]]

# How BLEU cuts words, by language, where sacrebleu's '13a' does not do. The two with packages of
# their own are installed as 'sacrebleu[ja]' and 'sacrebleu[ko]'.
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_PACKAGES = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko")}
# No blanks between words, and no cutter of words in sacrebleu: BLEU over characters.
_BY_CHARACTER = ("th", "lo", "km", "my", "bo", "dz")
_TOKENIZE = (
    "13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab", "flores101", "flores200",
)  # fmt: skip
# Scripts written without blanks between words, as Unicode's names of their characters begin.
_NO_BLANKS = (
    "CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI ",
)  # fmt: skip


class PromptedTarget(str):
    """A target that knows the prompt it was asked under, for `over_prompts`."""

    prompt: str

    def __new__(cls, text: str, prompt: str):
        made = super().__new__(cls, text)
        made.prompt = prompt
        return made


class PromptedTargets(list):
    """Several references of one example, and the prompt it was asked under."""

    def __init__(self, texts: Sequence[str], prompt: str):
        super().__init__(texts)
        self.prompt = prompt


def bleu(
    targets: Sequence, predictions: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> dict[str, Any]:
    """BLEU of the corpus (Papineni et al. 2002), by sacrebleu, 0 to 100.

    Args:
      targets: a text each, or a list of references.
      predictions: a text each; an empty one is counted as it is.
      tokenize: how words are cut, sacrebleu's name; `bleu_for` picks it by language.
      lowercase: whether case is ignored.

    Returns:
      {'BLEU': score, 'BLEU_signature': seqio.metrics.Text}.

    Raises:
      ValueError: nothing to score, or a tokenizer that is unknown or not installed.
    """
    _check_tokenizer(tokenize)
    from sacrebleu.metrics import BLEU

    return _by_sacrebleu(BLEU(tokenize=tokenize, lowercase=lowercase), targets, predictions)


def bleu_for(language: str) -> MetricFn:
    """BLEU that cuts words as a language needs it; ValueError where a package is missing.

    Chinese goes by sacrebleu's 'zh', Japanese and Korean by MeCab (`pip install 'sacrebleu[ja]'`
    or `[ko]`), Thai, Lao, Khmer, Burmese and Tibetan by characters, others by '13a', sacrebleu's
    default.
    """
    code = re.split(r"[-_]", language)[0].lower()
    if code in _BY_CHARACTER:
        return functools.partial(bleu, tokenize="char")
    tokenize = _TOKENIZERS.get(code, "13a")
    _check_tokenizer(tokenize)
    return functools.partial(bleu, tokenize=tokenize)


def chrf(targets: Sequence, predictions: Sequence[str], *, word_order: int = 0) -> dict[str, Any]:
    """chrF of the corpus (Popović 2015), by sacrebleu, 0 to 100; it needs no cutting of words.

    Args:
      targets, predictions: as of `bleu`.
      word_order: 0 for chrF2, 2 for chrF2++.

    Returns:
      {'chrF2': score, 'chrF2_signature': seqio.metrics.Text}, or 'chrF2++'.
    """
    from sacrebleu.metrics import CHRF

    return _by_sacrebleu(CHRF(word_order=word_order), targets, predictions)


def _check_tokenizer(tokenize: str) -> None:
    if tokenize not in _TOKENIZE:
        raise ValueError(f"tokenize is '{tokenize}'; write one of {', '.join(_TOKENIZE)}.")
    module, extra = _PACKAGES.get(tokenize, (None, None))
    if module and importlib.util.find_spec(module) is None:
        raise ValueError(
            f"BLEU's tokenizer '{tokenize}' needs a package that is not installed; write: pip "
            f"install 'sacrebleu[{extra}]', or take tokenize='char', or chrf alone."
        )


def _by_sacrebleu(metric: Any, targets: Sequence, predictions: Sequence[str]) -> dict[str, Any]:
    from seqio.metrics import Text

    references = _references(targets, predictions)
    count = max(map(len, references))
    streams = [[each[n] if n < len(each) else None for each in references] for n in range(count)]
    score = metric.corpus_score(list(predictions), streams)
    signature = Text(str(metric.get_signature()))
    return {score.name: float(score.score), f"{score.name}_signature": signature}


def _references(targets: Sequence, predictions: Sequence) -> list[list[str]]:
    """Every example's references as a list; ValueError for what cannot be compared."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} results; give one each.")
    if not len(predictions):
        raise ValueError("There is nothing to score; give at least one target and prediction.")
    for number, prediction in enumerate(predictions):
        if not isinstance(prediction, str):
            kind = type(prediction).__name__
            raise ValueError(
                f"Prediction {number} is a {kind}, and this metric compares one text each; decode "
                "one sequence an example, or return the best alone."
            )
    listed = [[one] if isinstance(one, str) else list(one) for one in targets]
    for number, each in enumerate(listed):
        if not each or not all(isinstance(text, str) for text in each):
            raise ValueError(f"Target {number} is {each!r:.80}; write a text, or a list of texts.")
    return listed


def over_prompts(metric: MetricFn) -> MetricFn:
    """The metric of each prompt apart, and their median, as the paper sums them up.

    Targets are `PromptedTarget`s. Of a number `BLEU` come `BLEU` (the median over prompts) and
    `BLEU/<prompt>`; texts such as signatures are taken once.
    """

    def prompted(targets, predictions):
        if len(targets) != len(predictions):
            raise ValueError(
                f"{len(targets)} targets but {len(predictions)} results; give one each."
            )
        groups: dict[str, tuple[list, list]] = {}
        for target, prediction in zip(targets, predictions, strict=True):
            of_target, of_prediction = groups.setdefault(target.prompt, ([], []))
            of_target.append(target)
            of_prediction.append(prediction)
        found = {prompt: metric(*pair) for prompt, pair in groups.items()}
        return _medians(found) if found else metric([], [])

    return prompted


def _medians(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in next(iter(found.values())).items():
        if not isinstance(value, int | float):
            made[name] = value
            continue
        made[name] = statistics.median(scores[name] for scores in found.values())
        # The signs that TensorBoard takes in a name.
        made |= {f"{name}/{re.sub(r'[^-.a-zA-Z0-9]', '_', p)}": s[name] for p, s in found.items()}
    return made


# --- ROUGE


def words(text: str) -> list[str]:
    """Words in lower case: runs of letters, marks and digits, or characters (see the file's top).

    Of ASCII text these are rouge_score's tokens without its stemmer.
    """
    found: list[str] = []
    grows = False  # whether the last word may go on
    for sign in unicodedata.normalize("NFKC", text).lower():
        kind = _kind(sign)
        if kind == "word" and grows:
            found[-1] += sign
        elif kind == "mark" and found and grows is not None:
            found[-1] += sign
        elif kind != "other":
            found.append(sign)
        # After a character that is a word, marks go on and letters do not.
        grows = {"word": True, "alone": False, "mark": grows}.get(kind)
    return found


@functools.lru_cache(maxsize=1 << 16)
def _kind(sign: str) -> str:
    category = unicodedata.category(sign)
    if category[0] == "M" or sign in "\u200c\u200d":  # joiners inside words of Indic scripts
        return "mark"
    if category[0] not in "LN":
        return "other"
    return "alone" if unicodedata.name(sign, "").startswith(_NO_BLANKS) else "word"


def rouge(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum (Lin 2004): the mean over examples of F1, 0 to 100.

    Of several references the best counts. Lsum takes every line for a sentence. No stemming.

    Raises:
      ValueError: nothing to score.
    """
    references = _references(targets, predictions)
    totals: Counter = Counter()
    for each, prediction in zip(references, predictions, strict=True):
        scores = [rouge_of(reference, prediction) for reference in each]
        for name in scores[0]:
            totals[name] += max(one[name] for one in scores)
    return {name: 100 * float(total) / len(predictions) for name, total in totals.items()}


def rouge_of(reference: str, prediction: str) -> dict[str, float]:
    """F1 of one pair of texts, 0 to 1: rouge1, rouge2, rougeL, rougeLsum."""
    wanted, given = words(reference), words(prediction)
    common = _table(wanted, given)[-1][-1] if wanted and given else 0
    lines = [[words(line) for line in text.split("\n")] for text in (reference, prediction)]
    return {
        "rouge1": _ngram_f1(wanted, given, 1),
        "rouge2": _ngram_f1(wanted, given, 2),
        "rougeL": _f1(common, len(wanted), len(given)),
        "rougeLsum": _summary_f1(*([line for line in text if line] for text in lines)),
    }


def _f1(hits: float, wanted: int, given: int) -> float:
    """Harmonic mean of recall hits/wanted and precision hits/given."""
    return 2 * hits / (wanted + given) if hits else 0.0


def _ngram_f1(wanted: list[str], given: list[str], order: int) -> float:
    left, right = (
        Counter(tuple(tokens[at : at + order]) for at in range(len(tokens) - order + 1))
        for tokens in (wanted, given)
    )
    return _f1((left & right).total(), left.total(), right.total())


def _table(left: list[str], right: list[str]) -> list[list[int]]:
    """Lengths of the longest common subsequence of all beginnings of two texts."""
    table = [[0] * (len(right) + 1)]
    for token in left:
        above, row, best = table[-1], [0], 0
        for column, other in enumerate(right):
            best = above[column] + 1 if token == other else max(above[column + 1], best)
            row.append(best)
        table.append(row)
    return table


def _common_places(left: list[str], right: list[str]) -> set[int]:
    """Places in `left` of one longest common subsequence; of equals the one ending latest right."""
    table, places = _table(left, right), set()
    row, column = len(left), len(right)
    while row and column:
        if left[row - 1] == right[column - 1]:
            row, column = row - 1, column - 1
            places.add(row)
        elif table[row][column - 1] > table[row - 1][column]:
            column -= 1
        else:
            row -= 1
    return places


def _summary_f1(wanted: list[list[str]], given: list[list[str]]) -> float:
    """F1 of the union of common subsequences (Lin 2004, section 3.2), no word counted twice."""
    left_of, right_of = (
        Counter(token for line in text for token in line) for text in (wanted, given)
    )
    num_wanted, num_given, hits = left_of.total(), right_of.total(), 0
    for line in wanted:
        for place in sorted(set().union(*(_common_places(line, other) for other in given))):
            token = line[place]
            if left_of[token] > 0 and right_of[token] > 0:
                left_of[token] -= 1
                right_of[token] -= 1
                hits += 1
    return _f1(hits, num_wanted, num_given)
