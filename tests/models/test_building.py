import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from recinject.foundation.errors import RecinjectError
from recinject.models.adapters import add_lora, without_wrapper
from recinject.models.building import (
    build_model,
    check_generation,
    count_parameters,
    embed_all_tokens,
    is_causal,
    load_model,
    wrap_tokenizer,
)
from recinject.models.storing import load_trained, save_trained
from recinject.samples.tokenizer import add_tokens, train_tokenizer

TINY = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TOKENIZER = train_tokenizer(["red car", "blue car"], 300)
IDS = torch.tensor([TOKENIZER.encode("a red car").ids])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, decoder_input_ids=IDS).logits


def test_the_seed_alone_decides_the_weights():
    before = torch.random.get_rng_state()
    one, same, other = (build_model(TINY, TOKENIZER, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))


def test_the_tokenizer_decides_the_vocabulary():
    config = build_model(TINY, TOKENIZER, 0).config
    assert config.vocab_size % 8 == 0
    assert 0 <= config.vocab_size - TOKENIZER.get_vocab_size() < 8
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"d_modell": 16}, "did you mean 'd_model'"),
        ({"vocab_size": 100}, "takes no 'vocab_size'"),
        ({"d_model": "big"}, "T5 refuses it"),
        ({"feed_forward_proj": "gated-nothing"}, "T5 refuses it"),
    ],
)
def test_a_wrong_config_is_refused(config, said):
    with pytest.raises(RecinjectError, match=said):
        build_model(TINY | config, TOKENIZER, 0)


def test_a_wrapped_tokenizer_knows_its_special_tokens():
    wrapped = wrap_tokenizer(TOKENIZER)
    assert (wrapped.pad_token_id, wrapped.eos_token_id, wrapped.unk_token_id) == (0, 1, 2)
    assert wrapped("a red car").input_ids == IDS[0].tolist()
    assert wrapped.decode(IDS[0], skip_special_tokens=True) == "a red car"


def test_lora_trains_little_and_starts_as_the_model_did():
    model = build_model(TINY, TOKENIZER, 0)
    before, (_, size) = logits(model), count_parameters(model)
    adapted = add_lora(model, {"r": 2, "target_modules": ["q", "v"]}, seed=3)
    trainable, total = count_parameters(adapted)
    assert trainable == total - size == 6 * 2 * 2 * 16
    assert torch.equal(logits(adapted), before)
    assert torch.equal(logits(without_wrapper(adapted)), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 4}, "Legal: "),
        ({"lora_alfa": 4}, "did you mean 'lora_alpha'"),
        ({"target_modules": ["nothing"]}, "peft refuses it"),
    ],
)
def test_wrong_lora_settings_are_refused(settings, said):
    with pytest.raises(RecinjectError, match=said):
        add_lora(build_model(TINY, TOKENIZER, 0), settings)


def test_a_saved_model_is_the_same_when_loaded(tmp_path):
    model = build_model(TINY, TOKENIZER, 0)
    save_trained(model, TOKENIZER, tmp_path / "model")
    loaded, tokenizer = load_trained(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert tokenizer.encode("a red car").ids == IDS[0].tolist()


def test_a_saved_lora_model_loads_with_plain_transformers(tmp_path):
    model = add_lora(build_model(TINY, TOKENIZER, 0), {"r": 2}, seed=3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    save_trained(model, TOKENIZER, tmp_path / "model")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("a red car").input_ids == (
        IDS[0].tolist()
    )
    assert not (tmp_path / "model" / "adapter").exists()


def test_an_adapter_over_a_named_base_is_kept(tmp_path):
    save_trained(build_model(TINY, TOKENIZER, 0), TOKENIZER, tmp_path / "base")
    model = add_lora(load_model(str(tmp_path / "base")), {"r": 2}, seed=3)
    save_trained(model, TOKENIZER, tmp_path / "model")
    config = (tmp_path / "model" / "adapter" / "adapter_config.json").read_text()
    assert str(tmp_path / "base") in config


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RecinjectError, match="no language model"):
        load_model(str(tmp_path))


ITEMS = [f"<item_{number}>" for number in range(20)]


@pytest.fixture
def outgrown(tmp_path):
    """A model folder, loaded with a tokenizer that has since been given twenty tokens."""
    save_trained(build_model(TINY, TOKENIZER, 0), TOKENIZER, tmp_path / "base")
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    add_tokens(tokenizer, ITEMS)
    model = load_model(str(tmp_path / "base"))
    ids = [tokenizer.token_to_id(text) for text in ITEMS]
    return embed_all_tokens(model, tokenizer, 1), tokenizer, ids


def test_embeddings_grow_with_the_tokenizer_and_not_without_need(outgrown):
    base, (model, tokenizer, ids) = build_model(TINY, TOKENIZER, 0), outgrown
    before, after = base.shared.weight, model.shared.weight
    assert len(after) == model.config.vocab_size >= tokenizer.get_vocab_size() > len(before)
    assert torch.equal(after[: len(before)], before)
    assert embed_all_tokens(base, TOKENIZER, 1).shared.weight is before
    state = torch.random.get_rng_state()
    same, other = (
        embed_all_tokens(build_model(TINY, TOKENIZER, 0), tokenizer, seed) for seed in (1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(same.shared.weight[ids], after[ids])
    assert not torch.equal(other.shared.weight[ids], after[ids])


@pytest.mark.parametrize("separate_head", [False, True])
def test_under_lora_only_the_new_rows_train_and_they_are_kept(outgrown, tmp_path, separate_head):
    model, tokenizer, ids = outgrown
    if separate_head:
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach() + 0.1)
    before = model.shared.weight.detach().clone()
    adapted = add_lora(model, {"r": 2, "target_modules": ["q", "v"]}, seed=3, new_tokens=ids)
    assert count_parameters(adapted)[0] == 6 * 2 * 2 * 16 + len(ids) * 16
    prompt = torch.tensor([tokenizer.encode("a red car, <item_3> <item_4>").ids])
    answer = torch.tensor([tokenizer.encode("<item_7>").ids])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.5)
    adapted(input_ids=prompt, labels=answer).loss.backward()
    optimizer.step()
    save_trained(adapted, tokenizer, tmp_path / "model")
    loaded, again = load_trained(tmp_path / "model")
    rows = loaded.shared.weight
    others = [row for row in range(len(before)) if row not in ids]
    assert torch.equal(rows[others], before[others])
    assert not torch.equal(rows[ids[7]], before[ids[7]])
    assert not torch.equal(rows[ids[3]], before[ids[3]])
    asked = {"input_ids": prompt, "decoder_input_ids": answer}
    with torch.no_grad():
        found, expected = loaded(**asked).logits, adapted.eval()(**asked).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert again.encode("<item_7>").ids == [ids[7], 1]
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("<item_7>").input_ids == [ids[7], 1]


SMALL = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "llama": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
             "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_of_another_type_is_built_from_its_own_config(kind):
    config = {"model_type": kind, **SMALL[kind]}
    one, same, other = (build_model(config, TOKENIZER, seed) for seed in (1, 1, 2))
    assert one.config.model_type == kind and is_causal(config) == (kind != "bart")
    assert (one.config.pad_token_id, one.config.eos_token_id) == (0, 1)
    assert one.config.vocab_size == build_model(TINY, TOKENIZER, 0).config.vocab_size
    weights, others = one.state_dict(), other.state_dict()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in weights.items())
    assert not all(torch.equal(value, others[name]) for name, value in weights.items())
    adapted = add_lora(one, {"r": 2}, seed=1)
    task = "CAUSAL_LM" if is_causal(config) else "SEQ_2_SEQ_LM"
    assert adapted.peft_config["default"].task_type == task
    assert not is_causal(TINY)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gtp2"}, "no model_type 'gtp2'\n  fix: did you mean 'gpt2'"),
        ({"model_type": "gpt2", "d_model": 16}, "GPT2Config takes no 'd_model'"),
        ({"model_type": "gpt2", "eos_token_id": 3}, "GPT2Config takes no 'eos_token_id'"),
        ({"model_type": "gpt2", "n_embd": 15}, "GPT2 refuses it"),
        ({"model_type": "vit"}, "ViT"),
    ],
)
def test_a_wrong_config_of_another_type_is_refused(config, said):
    with pytest.raises(RecinjectError, match=said):
        build_model(config, TOKENIZER, 0)


CAUSAL = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=304, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=304,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ),
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_model_is_loaded_as_what_it_is(kind, tmp_path):
    model = CAUSAL[kind]().eval()
    save_trained(model, TOKENIZER, tmp_path / "model")
    loaded, tokenizer = load_trained(tmp_path / "model")
    assert type(loaded) is type(model)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert tokenizer.encode("a red car").ids == IDS[0].tolist()
    grown = Tokenizer.from_str(TOKENIZER.to_str())
    add_tokens(grown, ITEMS)
    assert embed_all_tokens(loaded, grown, 1).config.vocab_size >= grown.get_vocab_size()


def test_a_tokenizer_of_other_conventions_keeps_its_own_special_tokens():
    tokenizer = Tokenizer(WordLevel({"<|end|>": 0, "a": 1, "[U]": 2}, unk_token="[U]"))
    wrapped = wrap_tokenizer(tokenizer, GPT2Config(eos_token_id=0, bos_token_id=0))
    assert (wrapped.eos_token, wrapped.pad_token, wrapped.bos_token) == ("<|end|>",) * 3
    assert len(wrapped) == 3 and len(wrap_tokenizer(tokenizer)) == 3


def test_the_end_pads_where_a_tokenizer_names_an_end_and_no_padding():
    """As Llama 2's does."""
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "mug": 2}))
    wrapped = wrap_tokenizer(tokenizer, GPT2Config(eos_token_id=1, bos_token_id=0))
    assert (wrapped.bos_token_id, wrapped.eos_token_id, wrapped.pad_token_id) == (0, 1, 1)
    assert len(wrapped) == 3


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"max_new_tokens": -3}, "must be greater than 0"),
    ],
)
def test_generation_is_checked_against_transformers_own_class(settings, fragment):
    with pytest.raises(RecinjectError, match=fragment):
        check_generation(settings)
    check_generation({"max_new_tokens": 4, "num_beams": 2})


def test_a_t5_from_a_config_starts_with_small_rows_and_plain_logits_or_as_the_library_does(
    tmp_path,
):
    small, old = (build_model(TINY, TOKENIZER, 0, start) for start in ("small_rows", "library"))
    rows, theirs = (model.get_input_embeddings().weight for model in (small, old))
    torch.testing.assert_close(rows, theirs * TINY["d_model"] ** -0.5)
    assert small.lm_head.weight is small.shared.weight
    assert (small.config.scale_decoder_outputs, old.config.scale_decoder_outputs) == (False, True)
    assert logits(small).std() < 2
    save_trained(small, TOKENIZER, tmp_path / "model")
    loaded, _ = load_trained(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(small))
    assert torch.equal(
        logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")), logits(small)
    )


def test_what_a_config_says_of_scaling_is_left_alone():
    asked = build_model(TINY | {"tie_word_embeddings": False}, TOKENIZER, 0)
    old = build_model(TINY, TOKENIZER, 0, "library")
    assert not asked.config.scale_decoder_outputs
    assert torch.equal(asked.shared.weight, old.shared.weight)
    gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    one, other = (build_model(gpt2, TOKENIZER, 0, start) for start in ("small_rows", "library"))
    assert torch.equal(one.transformer.wte.weight, other.transformer.wte.weight)
