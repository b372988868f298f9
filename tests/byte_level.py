"""A small tokenizer.json as BLOOM's is: byte-level BPE trained here, unk 0, bos 1, eos 2, pad 3."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")
TEXTS = [
    "What is the capital of Tanzania? Dodoma.",
    "Mji mkuu wa Tanzania ni upi? Dodoma.",
    "तंज़ानिया की राजधानी क्या है? डोडोमा।",
    "坦桑尼亚的首都是哪里？多多马。",
    "ما هي عاصمة تنزانيا؟ دودوما.",
    "def f(x):\n    return x + 1\n\n\tdone  twice",
    "Ist das wahr? Ja, nein oder vielleicht: 3,14 🙂",
]


def tokenizer(size: int = 500) -> Tokenizer:
    """Trained on TEXTS; `size` ids at most, the 256 bytes and the four special tokens included."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A word with the blank before it, marks apart.
            pre_tokenizers.Split(Regex(r" ?[^\s.,!?…。，、।۔،]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 4, trainer)
    return made


def write(folder: Path, size: int = 500) -> Path:
    """Writes a folder with the files that lie beside BLOOM's weights; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(size).save(str(folder / "tokenizer.json"))
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=True))
    settings = names | {"padding_side": "left", "tokenizer_class": "BloomTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return folder
