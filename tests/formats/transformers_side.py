"""What transformers and torch make of an exported folder; run by Python of `make torch-venv`.

python transformers_side.py {logits,generate} FOLDER QUESTION.npz ANSWER.npz
python transformers_side.py tokenize FOLDER TEXTS.json IDS.json

It stands alone: neither JAX nor mt0_tpu is installed there.
"""

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

PAD_ID = 0


def load(folder, dtype):
    """Loads the folder as a user would; every tensor must have found its place."""
    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, local_files_only=True
    )
    misplaced = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if misplaced:
        sys.exit(f"from_pretrained: {misplaced}")
    return model.eval()


def inputs_of(question):
    ids = torch.from_numpy(question["inputs"]).long()
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).long()}


def logits(folder, question):
    """Returns float32 logits, the dtype as stored, and whether embedding and head are one."""
    stored = next(load(folder, "auto").parameters()).dtype
    model = load(folder, torch.float32)
    decoder = torch.from_numpy(question["decoder_inputs"]).long()
    with torch.no_grad():
        found = model(**inputs_of(question), decoder_input_ids=decoder).logits
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return {"logits": found.numpy(), "dtype": str(stored), "tied": tied}


def generate(folder, question):
    """Returns greedy ids [rows, length], padded."""
    model = load(folder, torch.float32)
    length = int(question["length"])
    ids = model.generate(
        **inputs_of(question), do_sample=False, num_beams=1, max_new_tokens=length
    ).numpy()[:, 1:]  # without the start token
    return {"ids": np.pad(ids, ((0, 0), (0, length - ids.shape[1])))}


def main(what, folder, question, answer):
    torch.set_num_threads(1)
    if what == "tokenize":
        with open(question, encoding="utf-8") as file:
            texts = json.load(file)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = tokenizer(texts)["input_ids"]
        with open(answer, "w", encoding="utf-8") as file:
            json.dump({"ids": ids, "texts": [tokenizer.decode(one, True) for one in ids]}, file)
        return
    with np.load(question) as archive:
        np.savez(answer, **{"logits": logits, "generate": generate}[what](folder, dict(archive)))


if __name__ == "__main__":
    main(*sys.argv[1:])
