import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.clippy import ClippyAdagrad, ClippyAdam, clippy_groups
from recinject.models.adapters import add_lora
from recinject.training.optimizers import log_entries


def names(groups, clip):
    return {name for g in groups if g["clip"] is clip for name in g["param_names"]}


def test_embeddings_are_in_a_group_that_is_not_clipped(make_model):
    model = make_model()
    groups = clippy_groups(model, weight_decay=0.1)
    biases = {n for n, _ in model.named_parameters() if "relative_attention_bias" in n}
    assert names(groups, False) == {"shared.weight"} | biases
    assert names(groups, True) | names(groups, False) == {n for n, _ in model.named_parameters()}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}
    assert len(clippy_groups(model)) == 2


def test_groups_hold_what_is_trained_and_new_rows_are_embeddings(make_model):
    model = add_lora(make_model(), {"r": 2}, new_tokens=[3, 4])
    groups = clippy_groups(model)
    assert all("trainable_tokens_delta" in name for name in names(groups, False))
    assert all("lora_" in name for name in names(groups, True))
    trained = sum(p.requires_grad for p in model.parameters())
    assert sum(len(group["params"]) for group in groups) == trained


@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_thresholds_that_freeze_lora_are_refused(make_model, kind):
    model = add_lora(make_model(), {"r": 2})
    kind(clippy_groups(model), 0.1)
    with pytest.raises(RecinjectError, match=r"lam_abs: 1e-07 would freeze .*lora_B"):
        kind(clippy_groups(model), 0.1, lam_abs=1e-7)


def test_lora_leaves_zero_with_the_usual_thresholds(make_model):
    model = add_lora(make_model(), {"r": 2})
    optimizer = ClippyAdam(clippy_groups(model), 0.01)
    tokens = torch.tensor([[5, 6, 7, 1]])
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_trainers_wrapper_hides_no_scales(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = ClippyAdagrad(clippy_groups(model), 5.0)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = Trainer(model, arguments, optimizers=(optimizer, None))
    wrapped = trainer.accelerator.prepare(optimizer)
    model(torch.ones(3, 2)).sum().backward()
    wrapped.step()
    assert type(wrapped) is not ClippyAdagrad
    assert set(log_entries(wrapped)) == {"clip_scale_min", "clip_scale_mean", "clip_share"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_a_gradient_that_is_no_number_is_named_before_it_does_harm(
    tensors, give_gradients, kind, clip, bad
):
    parameters = tensors()
    named = [(f"layer.{number}", tensor) for number, tensor in enumerate(parameters)]
    optimizer = kind([{"params": named, "clip": clip}])
    give_gradients(parameters, 0)
    optimizer.step()
    before = [tensor.clone() for tensor in parameters]
    remembered = [tensor.clone() for s in optimizer.state.values() for tensor in s.values()]
    give_gradients(parameters, 1)
    parameters[3].grad[1, 0, 2] = bad
    with pytest.raises(RecinjectError, match=r"gradient of layer\.3 is not finite"):
        optimizer.step()
    assert all(map(torch.equal, before, parameters))
    kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert all(map(torch.equal, remembered, kept))


def test_a_gradient_whose_norm_overflows_is_a_gradient():
    weights = nn.Parameter(torch.ones(3))
    optimizer = ClippyAdagrad([weights], 0.1)
    weights.grad = torch.full((3,), 3e38)
    optimizer.step()
    assert weights.isfinite().all()


def test_a_closure_is_called_with_gradients():
    weights = nn.Parameter(torch.ones(2))
    optimizer = ClippyAdagrad([weights], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    torch.testing.assert_close(weights.detach(), torch.full((2,), 0.9))


def test_scales_are_summed_up_from_one_line_of_the_log_to_the_next():
    tight, loose = nn.Parameter(torch.full((2,), 0.1)), nn.Parameter(torch.full((2,), 10.0))
    optimizer = ClippyAdagrad([("tight", tight), ("loose", loose)], 0.1, lam_rel=0.4, lam_abs=0.01)
    assert log_entries(optimizer) == {}
    for weights in (tight, loose):
        weights.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.scales == pytest.approx({"tight": 0.5, "loose": 1.0})
    wanted = {"clip_scale_min": 0.5, "clip_scale_mean": 0.75, "clip_share": 0.5}
    assert log_entries(optimizer) == pytest.approx(wanted)
    assert log_entries(optimizer) == {}
    assert log_entries(torch.optim.Adam([tight])) == log_entries(None) == {}
