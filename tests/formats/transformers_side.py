"""What transformers and torch make of an exported folder; run by Python of `make torch-venv`.

python transformers_side.py {logits,generate} FOLDER QUESTION.npz ANSWER.npz
python transformers_side.py tokenize FOLDER TEXTS.json IDS.json

It stands alone: neither JAX nor mt0_tpu is installed there.
"""

import json
import sys

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

PAD_ID = 0


def load(folder, dtype):
    """Loads the folder as a user would; every tensor must have found its place."""
    encoder_decoder = AutoConfig.from_pretrained(folder, local_files_only=True).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model, info = kind.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, local_files_only=True
    )
    misplaced = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if misplaced:
        sys.exit(f"from_pretrained: {misplaced}")
    return model.eval()


def inputs_of(question):
    """Ids and their mask, which a BLOOM's question brings: 0 is a token there."""
    ids = torch.from_numpy(question["inputs"]).long()
    mask = torch.from_numpy(question["mask"]) if "mask" in question else ids != PAD_ID
    return {"input_ids": ids, "attention_mask": mask.long()}


def logits(folder, question):
    """Returns float32 logits, the dtype as stored, and whether embedding and head are one."""
    stored = next(load(folder, "auto").parameters()).dtype
    model = load(folder, torch.float32)
    inputs = inputs_of(question)
    if "decoder_inputs" in question:
        inputs["decoder_input_ids"] = torch.from_numpy(question["decoder_inputs"]).long()
    with torch.no_grad():
        found = model(**inputs).logits
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return {"logits": found.numpy(), "dtype": str(stored), "tied": tied}


def generate(folder, question):
    """Returns greedy ids [rows, length], filled up with 0, or what it fills up with itself."""
    model = load(folder, torch.float32)
    length = int(question["length"])
    # Without the start token, or the prompt.
    given = 1 if model.config.is_encoder_decoder else question["inputs"].shape[1]
    ids = model.generate(
        **inputs_of(question), do_sample=False, num_beams=1, max_new_tokens=length
    ).numpy()[:, given:]
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
