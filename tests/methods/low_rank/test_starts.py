import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, GPT2LMHeadModel

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.starts import LfaiStart, SpectralStart
from recinject.models.adapters import add_lora
from recinject.models.building import build_model, load_model
from recinject.models.storing import save_converted, save_trained
from recinject.samples.tokenizer import train_tokenizer

TINY = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
TOKENIZER = train_tokenizer(["red car", "blue car"], 300)
SIZE = TOKENIZER.get_vocab_size()
TARGETS = ["q", "v", "wi_0", "wi_1", "wi", "wo"]
BATCHES = [
    {
        "input_ids": torch.randint(3, SIZE, (4, 9), generator=torch.Generator().manual_seed(seed)),
        "attention_mask": torch.ones(4, 9, dtype=torch.long),
        "labels": torch.randint(3, SIZE, (4, 5), generator=torch.Generator().manual_seed(-seed)),
    }
    for seed in (1, 2, 3)
]


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCHES[0]).logits


@pytest.fixture(params=["relu", "gated-gelu"])
def base(request, tmp_path):
    model = build_model({**TINY, "feed_forward_proj": request.param}, TOKENIZER, 0)
    save_trained(model, TOKENIZER, tmp_path / "base")
    return tmp_path / "base"


def adapted(base, new_tokens=(), **settings):
    settings = {"r": 3, "lora_alpha": 12, "target_modules": TARGETS, **settings}
    known = {name.rpartition(".")[2] for name, _ in load_model(str(base)).named_modules()}
    settings["target_modules"] = [name for name in settings["target_modules"] if name in known]
    return add_lora(load_model(str(base)), settings, seed=1, new_tokens=new_tokens)


def train(model, steps=5):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.3)
    for step in range(steps):
        model.train()(**BATCHES[step % 3]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"new_tokens": [5, 7]}])
def test_training_starts_as_the_model_did_and_ends_over_the_original_base(base, tmp_path, more):
    model, before = adapted(base, **more), logits(load_model(str(base)))
    LfaiStart().start(model, BATCHES, 0)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    norms = [
        m.weight.norm() for name, m in model.named_modules() if name.endswith("lora_B.default")
    ]
    assert len(norms) and all(norm > 0 for norm in norms)
    model.save_pretrained(tmp_path / "initial")
    train(model)
    trained = logits(model)
    assert (trained - before).abs().max() > 0.05
    save_converted(model, tmp_path / "initial", tmp_path / "adapter")
    assert torch.equal(logits(model), trained) and model.peft_config["default"].r == 3
    assert model.active_adapters == ["default"] and list(model.peft_config) == ["default"]
    loaded = PeftModel.from_pretrained(load_model(str(base)), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), trained, atol=1e-3, rtol=1e-3)
    save_trained(model, TOKENIZER, tmp_path / "merged")
    merged = logits(load_model(str(tmp_path / "merged")))
    torch.testing.assert_close(merged, trained, atol=1e-3, rtol=1e-3)


def test_a_stored_start_is_taken_up_exactly(base, tmp_path):
    model, same = adapted(base), adapted(base)
    start = LfaiStart(rows=99)
    start.start(model, BATCHES, 0)
    start.save(model, tmp_path / "initial")
    start.load(same, tmp_path / "initial")
    weights = same.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_spectral_part_is_peft_s_own_pissa(base):
    model = adapted(base)
    SpectralStart().start(model, [], 0)
    pissa = adapted(base, init_lora_weights="pissa").state_dict()
    for name, value in model.state_dict().items():
        if "base_layer" in name:
            torch.testing.assert_close(value, pissa[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"r": 17}, "full rank is 16"),
        ({"init_lora_weights": "pissa"}, "does not start at zero"),
        ({"target_modules": ["q", "shared"]}, "is a Embedding"),
    ],
)
def test_what_cannot_be_done_is_said(base, settings, said):
    with pytest.raises(RecinjectError, match=said):
        LfaiStart().start(adapted(base, **settings), BATCHES, 0)


def test_gpt2_s_transposed_layers_are_refused():
    config = GPT2Config(vocab_size=304, n_embd=16, n_layer=1, n_head=2)
    model = add_lora(GPT2LMHeadModel(config), {"r": 2, "fan_in_fan_out": True})
    with pytest.raises(RecinjectError, match="is a Conv1D"):
        LfaiStart().start(model, [], 0)
