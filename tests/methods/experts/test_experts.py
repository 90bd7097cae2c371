import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from recinject.decoding.decoders import read_prompts
from recinject.foundation.errors import RecinjectError
from recinject.methods.experts.experts import ExpertsLinear, add_experts
from recinject.models.adapters import RatingModel, adaptation_of, answering, load_adapted
from recinject.models.building import build_model, wrap_tokenizer
from recinject.samples.tokenizer import train_tokenizer
from recinject.training.arguments import training_arguments
from recinject.training.batches import make_collator
from recinject.training.fitting import TokenTrainer

TOKENIZER = train_tokenizer(["red blue green car doll brick"] * 9, 300)
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
T5 |= {"feed_forward_proj": "gated-gelu"}
TASKS = ["retrieval", "rating", "bpr"]
TARGETS = ["q", "v", "wi_0", "wo"]
KINDS = ["dselect_k", "softmax", "top_k"]


def make(seed=1, config=T5, **settings):
    told = {"number": 4, "rank": 2, "target_modules": TARGETS, **settings}
    return add_experts(build_model(config, TOKENIZER, 0), told, TASKS, seed)


def stirred(model, saturated=False):
    """Give experts and gate other weights than those that they start with."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "expert_b" in name:
                weight.normal_(std=0.3, generator=generator)
        for weight in model.gate.parameters():
            weight.normal_(std=0.3, generator=generator)
            if saturated:
                weight.copy_(weight.sign() + 0.1 * weight)
    return model.eval()


def inputs(rows=6, length=5):
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(5, 60, (rows, length), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1::2, -2:] = 0
    labels = torch.randint(5, 60, (rows, 3), generator=generator)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def weights_of(model, batch, tasks):
    if model.settings.decision == "task":
        return model.routing().weights[tasks]
    embedded = model.backbone.shared(batch["input_ids"]) * batch["attention_mask"][..., None]
    mean = embedded.sum(1) / batch["attention_mask"].sum(1, keepdim=True)
    known = tasks if model.settings.decision == "task_sequence" else None
    return model.gate(mean / mean.norm(dim=1, keepdim=True), known).weights


def by_hand(layer, weights, scale):
    """A layer's forward as a loop over rows and experts."""

    def forward(x):
        rows = []
        for row, q in zip(x, weights, strict=True):
            output = torch.nn.functional.linear(row, layer.weight, layer.bias)
            for a, b, share in zip(layer.expert_a, layer.expert_b, q, strict=True):
                output = output + scale * share * (row @ a.T @ b)
            rows.append(output)
        return torch.stack(rows)

    return forward


@pytest.mark.parametrize("tasks", [[1] * 6, [0, 2, 1, 1, 0, 2]])
@pytest.mark.parametrize("decision", ["task", "sequence", "task_sequence"])
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_a_loop(kind, saturated, decision, tasks):
    # Of a gate that is saturated only the picks are computed, and of that the loop knows nothing.
    model = stirred(make(gate=kind, decision=decision, alpha=6.0), saturated)
    if saturated and decision != "task" and kind == "dselect_k":
        with torch.no_grad():
            model.gate.logits.weight.mul_(10_000)
    batch, tasks = inputs(), torch.tensor(tasks)
    plain = copy.deepcopy(model)
    weights = weights_of(plain, batch, tasks)
    for layer in plain.modules():
        if isinstance(layer, ExpertsLinear):
            layer.forward = by_hand(layer, weights, 3.0)
    with answering(model, tasks), answering(plain, tasks):
        found, expected = model(**batch), plain(**batch)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(model._routing.is_saturated, plain._routing.is_saturated)
    if saturated and kind == "dselect_k":
        assert model._route.chosen is not None
    found.loss.backward()
    expected.loss.backward()
    others = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            own = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.testing.assert_close(own, others[name].grad, atol=1e-6, rtol=1e-4, msg=name)
        else:
            assert weight.grad is None


def test_one_expert_alone_is_that_expert_exactly_and_none_at_first():
    base, batch = build_model(T5, TOKENIZER, 0).eval(), inputs()
    model = make(k=1).eval()
    with torch.no_grad(), answering(model, "rating"):
        torch.testing.assert_close(model(**batch).logits, base(**batch).logits)
        stirred(model)
        model.gate.logits.weight[1] = torch.tensor([0.0, 1.0, -1.0])  # the code of expert 2
        found = model(**batch).logits
        for layer in model.modules():
            if isinstance(layer, ExpertsLinear):
                layer.expert_a[[0, 1, 3]], layer.expert_b[[0, 1, 3]] = 9.0, 9.0
        assert torch.equal(found, model(**batch).logits)


@pytest.mark.parametrize("decision", ["task", "sequence", "task_sequence"])
def test_branches_of_a_prompt_share_its_decision(decision):
    model, batch = stirred(make(decision=decision)), inputs(rows=4)
    asked = batch["input_ids"], batch["attention_mask"]
    second = torch.tensor([[7, 8, 9]] * 4)
    with torch.no_grad(), answering(model, "bpr"):
        with read_prompts(model, *asked) as branches:
            branches.step(branches.start)
            branches.branch(np.zeros((4, 3), np.int64))
            found = branches.step(second.numpy())
        for place in range(3):
            decoder = torch.cat([torch.zeros(4, 1, dtype=torch.long), second[:, place, None]], 1)
            expected = model(input_ids=asked[0], attention_mask=asked[1], decoder_input_ids=decoder)
            torch.testing.assert_close(found[:, place], expected.logits[:, -1], atol=1e-5, rtol=0)
        beams = model.generate(*asked[:1], attention_mask=asked[1], num_beams=3, max_new_tokens=4)
        alone = [
            model.generate(ids[None], attention_mask=mask[None], num_beams=3, max_new_tokens=4)[0]
            for ids, mask in zip(*asked, strict=True)
        ]
        width = beams.shape[1]
        for row, other in zip(beams.tolist(), alone, strict=True):
            assert row == (other.tolist() + [0] * width)[:width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saturated", [False, True])
def test_a_tasks_adapter_is_the_mixture_in_plain_peft(kind, saturated, tmp_path):
    model, batch = stirred(make(gate=kind, alpha=5.0), saturated), inputs()
    for task in TASKS:
        model.export_adapter(task, tmp_path / task)
        base = build_model(T5, TOKENIZER, 0)
        adapted = PeftModel.from_pretrained(base, tmp_path / task).eval()
        with torch.no_grad(), answering(model, task):
            expected = model(**batch).logits
            torch.testing.assert_close(adapted(**batch).logits, expected, atol=1e-5, rtol=1e-5)
        rank = json.loads((tmp_path / task / "adapter_config.json").read_text())["r"]
        picks = (model.routing().weights[TASKS.index(task)] > 0).sum().item()
        assert rank == 2 * picks
        assert picks <= (2 if kind == "top_k" or (saturated and kind == "dselect_k") else 4)


@pytest.mark.parametrize("decision", ["task", "sequence", "task_sequence"])
def test_saved_and_loaded_it_is_the_same_and_its_model_is_plain(decision, tmp_path):
    model, batch = stirred(make(decision=decision)), inputs()
    model.save_pretrained(tmp_path)
    plain, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    base = build_model(T5, TOKENIZER, 0).eval()
    assert torch.equal(plain.eval()(**batch).logits, base(**batch).logits)
    loaded = load_adapted("experts", plain, tmp_path).eval()
    assert loaded.settings == model.settings and loaded.task_names == TASKS
    for given in ("bpr", torch.tensor([0, 1, 2, 2, 1, 0])):
        with torch.no_grad(), answering(model, given), answering(loaded, given):
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def train(model, folder, **more):
    generator = np.random.default_rng(0)
    tasks = generator.integers(0, 2, 64)
    # Both tasks read the same and answer differently: one decision cannot serve both.
    prompts = generator.integers(5, 60, (64, 4)).tolist()
    rows = {"input_ids": prompts, "labels": [[10 + 20 * int(task), 1] for task in tasks]}
    data = Dataset.from_dict({**rows, "length": [4] * 64, "task": tasks})
    settings = {"use_cpu": True, "per_device_train_batch_size": 16, "learning_rate": 0.02,
                "max_steps": 6, "logging_steps": 1, "save_steps": 3, "weight_decay": 0.1,
                "lr_scheduler_type": "constant", **more}  # fmt: skip
    resumed = settings.pop("resumed", None)
    trainer = TokenTrainer(
        model=model,
        args=training_arguments(settings, folder, 1),
        train_dataset=data,
        data_collator=make_collator(model, wrap_tokenizer(TOKENIZER)),
        task_names=TASKS,
    )
    trainer.train(resume_from_checkpoint=resumed)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("decision", ["task", "sequence", "task_sequence"])
def test_a_run_cut_off_and_resumed_ends_as_one_that_was_not(decision, tmp_path):
    whole, resumed = (make(decision=decision, dropout=0.1) for _ in range(2))
    train(whole, tmp_path)
    weights = tmp_path / "checkpoint-3" / "model.safetensors"
    assert weights.stat().st_size < 4 * sum(w.numel() for w in whole.trained_weights().values()) * 2
    train(resumed, tmp_path, resumed=str(tmp_path / "checkpoint-3"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_two_tasks_train_and_their_gates_saturate(tmp_path):
    torch.manual_seed(0)
    model = make(k=1, regulariser=0.1, warmup_steps=10, gate_rate=5.0)
    base = {n: w.clone() for n, w in model.named_parameters() if not w.requires_grad}
    losses = train(model, tmp_path, max_steps=60, save_strategy="no")
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    assert model.routing().is_saturated[:2].all()
    assert all(torch.equal(w, base[n]) for n, w in model.named_parameters() if n in base)


def test_a_head_for_ratings_goes_above():
    model = RatingModel(stirred(make(decision="sequence")), "regression", [1.0, 5.0], [1, 1])
    assert (
        adaptation_of(model) is model.backbone
        and "backbone.gate.logits.weight" in model.trained_weights()
    )
    batch = inputs()
    found = model(batch["input_ids"], batch["attention_mask"], torch.ones(6))
    (found.loss + model.extra_loss().mean()).backward()
    assert model.extra_loss().shape == (6,)


def test_the_regularisers_weight_rises_and_only_then_stays():
    model, batch = make(regulariser=0.5, warmup_steps=4), inputs()
    with answering(model, "bpr"):
        model(**batch)
    entropy = model.routing().entropy.sum().item()
    found = [model.extra_loss(step).item() / entropy for step in range(6)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


@pytest.mark.parametrize(
    ("wrong", "place"),
    [({"k": 5}, "k"), ({"k": 0}, "k"), ({"number": 1, "k": 1}, "number"), ({"gamma": 0}, "gamma"),
     ({"gate": "dselectk"}, "gate"), ({"rank": 0}, "rank"), ({"target_modules": ["que"]}, "que"),
     ({"decision": "token"}, "decision"), ({"dropout": 1.0}, "dropout")],
)  # fmt: skip
def test_bad_settings_are_refused_with_the_fix(wrong, place):
    with pytest.raises(RecinjectError, match=place):
        make(**wrong)


def test_what_cannot_be_routed_is_refused():
    model, batch = make(), inputs()
    for tasks in (None, torch.zeros(4, dtype=torch.long)):
        with pytest.raises(RecinjectError, match="task of each row"), answering(model, tasks):
            model(**batch)
    with pytest.raises(RecinjectError, match="ranking"), answering(model, "ranking"):
        pass
    with pytest.raises(RecinjectError, match="each sequence"):
        make(decision="sequence").routing()
    with pytest.raises(RecinjectError, match="causal"):
        make(config={"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2})
    with answering(build_model(T5, TOKENIZER, 0), "anything"):
        pass
