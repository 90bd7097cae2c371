"""Recommend by plain transformers: python decode.py "PROMPT" [K]."""

import sys
from pathlib import Path

import torch
from allowed import AllowedTokens  # type: ignore[import-not-found]  # it lies beside this file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

if __name__ == "__main__":
    here, k = Path(__file__).parent, int(sys.argv[2]) if len(sys.argv) > 2 else 10
    allowed, config = AllowedTokens(here / "trie.npz"), AutoConfig.from_pretrained(here / "model")
    both, end = config.is_encoder_decoder, config.eos_token_id
    kind = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
    model = kind.from_pretrained(here / "model").eval()
    ids = AutoTokenizer.from_pretrained(here / "model")(sys.argv[1])["input_ids"]
    prompt = torch.tensor([ids if both or ids[-1] != end else ids[:-1]])
    start = 1 if both else prompt.shape[1]  # where the answer begins
    # generate forgets an answer that ends while longer ones look better: it follows more of them.
    settings = {"num_beams": 4 * k, "num_return_sequences": k, "max_new_tokens": allowed.depth}
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        prefix_allowed_tokens_fn=lambda _, ids: allowed(ids.tolist()[start:]) or [end],
        length_penalty=0.0,  # a score is the sum of the tokens' log-probabilities
        pad_token_id=end,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    for ids, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        print(f"{score:.4f}\t{allowed.item(ids[start:])}")  # noqa: T201
