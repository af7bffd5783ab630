"""transformers: edges that change under its Trainer, and sparse models from save_pretrained."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear

transformers = pytest.importorskip("transformers", reason="needs the extra test")
pytest.importorskip("accelerate", reason="needs the extra test")

from sparsetrain.trainers.transformers import EvolverCallback, from_pretrained  # noqa: E402

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 30,
    "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3,
}  # fmt: skip
RULES = {"*encoder*": 0.2}
DATA = [{"input_ids": [k % 30, (7 * k) % 30, 3], "labels": k % 3} for k in range(32)]
SCHEDULE = st.evolve.Constant(interval=3, prune_fraction=0.3)


@pytest.fixture(autouse=True)
def _warnings_of_theirs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def classifier(seed: int) -> Any:
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    return st.convert.sparsify(model, RULES)


def training(model: Any, folder: Path, **options: Any) -> tuple[Any, Any]:
    """A Trainer of the model, and its Evolver."""
    optimizer = st.optim.AdamW(model.parameters(), lr=0.01)
    rule = options.pop("rule", st.evolve.RigL(batches=3))
    schedule = options.pop("schedule", st.evolve.Constant(interval=4, prune_fraction=0.3))
    evolver = st.evolve.Evolver(model, optimizer, rule, schedule, generator=torch.Generator().manual_seed(3))
    usual = {
        "per_device_train_batch_size": 4, "max_steps": 12, "report_to": "none", "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "output_dir": str(folder),
    }  # fmt: skip
    callback = EvolverCallback(evolver, log=options.pop("log", None))
    arguments = transformers.TrainingArguments(**{**usual, **options})
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=DATA, eval_dataset=DATA, optimizers=(optimizer, constant), callbacks=[callback]
    )
    return trainer, evolver


def assert_same(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


def first_digest(model: Any) -> str:
    return str(model.bert.encoder.layer[0].output.dense.topology.digest)


def test_a_step_for_all_gradients_that_are_accumulated(tmp_path: Path) -> None:
    model = classifier(0)
    trainer, evolver = training(model, tmp_path, gradient_accumulation_steps=3, max_steps=6)
    before = first_digest(model)
    trainer.train()
    assert evolver.steps == trainer.state.global_step == 6
    assert first_digest(model) != before
    [line] = [line for line in trainer.state.log_history if "evolve/edges" in line]
    assert line["step"] == 4
    assert line["evolve/edges"] == sum(m.topology.nnz for m in model.modules() if isinstance(m, SparseLinear))
    evolver.optimizer.step()
    assert evolver.steps == 6  # it is the Trainer's no longer


def test_numbers_go_where_they_are_sent(tmp_path: Path) -> None:
    sent: list[dict[str, float]] = []
    trainer, _ = training(classifier(0), tmp_path, log=lambda numbers: (trainer.log(numbers), sent.append(numbers)))
    trainer.train()
    assert len(sent) == 3
    logged = [line for line in trainer.state.log_history if "evolve/edges" in line]
    assert [line["step"] for line in logged] == [4, 8, 12]


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        (st.evolve.RigL(batches=3), st.evolve.Constant(interval=4, prune_fraction=0.3)),  # it notes steps 6 to 8
        (st.evolve.GMP(), st.evolve.Linear(interval=2, stop=10, final_density=0.1)),
    ],
    ids=repr,
)
def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, rule: Any, schedule: Any) -> None:
    """From a model of other edges, in the middle of what a rule notes, to the same bits."""
    options = {"rule": rule, "schedule": schedule}
    whole, resumed = classifier(0), classifier(5)
    half = copy.deepcopy(whole)
    training(whole, tmp_path / "whole", **options)[0].train()
    training(half, tmp_path / "half", max_steps=6, save_strategy="steps", save_steps=6, **options)[0].train()
    trainer, evolver = training(resumed, tmp_path / "resumed", **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-6"))
    assert evolver.steps == 12
    assert_same(resumed, whole)


def test_the_best_model_brings_its_edges(tmp_path: Path) -> None:
    model = classifier(0)
    trainer, _ = training(
        model, tmp_path, max_steps=8, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    best = from_pretrained(transformers.BertForSequenceClassification, trainer.state.best_model_checkpoint)
    assert_same(model, best)


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    model = classifier(0)
    trainer, evolver = training(model, tmp_path)
    trainer.optimizer = None
    with pytest.raises(ValueError, match=r"expected a Trainer with the optimizer that the Evolver has"):
        trainer.train()
    assert evolver.steps == 0
    with pytest.raises(TypeError, match="expected evolver to be an Evolver"):
        EvolverCallback(trainer)


def test_two_evolvers_of_one_optimizer() -> None:
    def of(seed: int) -> tuple[Any, list[Any]]:
        model = classifier(seed)
        optimizer = st.optim.AdamW(model.parameters(), lr=0.01)
        rules = st.evolve.SET(), st.evolve.GMP()
        schedules = SCHEDULE, st.evolve.Linear(interval=1, stop=9, final_density=0.1)
        each = zip(rules, schedules, ("*attention*", "*intermediate*"), strict=True)
        evolvers = [st.evolve.Evolver(model, optimizer, rule, when, layers=name) for rule, when, name in each]
        for evolver in evolvers:
            EvolverCallback(evolver)
        return model, evolvers

    (model, evolvers), (other, others) = of(0), of(5)
    for _ in range(4):
        for evolver in evolvers:
            evolver.step()
    other.load_state_dict(model.state_dict())
    others[0].optimizer.load_state_dict(evolvers[0].optimizer.state_dict())
    assert [evolver.steps for evolver in others] == [4, 4]
    assert_same(other, model)


def test_a_state_without_an_evolver_is_said(tmp_path: Path) -> None:
    optimizer = st.optim.AdamW(classifier(0).parameters(), lr=0.01)
    _, evolver = training(classifier(0), tmp_path)
    assert evolver.optimizer.state_dict()["evolvers"][0]["steps"] == 0
    with pytest.warns(UserWarning, match="saved without an Evolver"):
        evolver.optimizer.load_state_dict(optimizer.state_dict())


# ---- from_pretrained -------------------------------------------------------------------------------------------------


def test_from_pretrained(tmp_path: Path) -> None:
    model = classifier(0)
    model.save_pretrained(tmp_path)
    other, info = from_pretrained(type(model), tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert type(other) is type(model)
    assert_same(other, model)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(other(ids).logits, model.eval()(ids).logits, rtol=0, atol=0)
    other.save_pretrained(tmp_path / "again")
    assert_same(from_pretrained(type(model), tmp_path / "again"), model)


def test_another_head_and_the_base_alone(tmp_path: Path) -> None:
    model = classifier(0)
    model.save_pretrained(tmp_path / "whole")
    base = from_pretrained(transformers.BertModel, tmp_path / "whole")
    assert_same(base.encoder, model.bert.encoder)
    base.save_pretrained(tmp_path / "base")
    head = from_pretrained(transformers.BertForTokenClassification, tmp_path / "base")
    assert_same(head.bert.encoder, model.bert.encoder)


def test_layers_that_a_model_initializes_from_outside(tmp_path: Path) -> None:
    """GPT-2's Conv1D, whose module draws ``c_proj.weight`` once more where it was not loaded."""
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=30, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = st.convert.sparsify(transformers.GPT2LMHeadModel(config), 0.2).eval()
    model.save_pretrained(tmp_path)
    other = from_pretrained(type(model), tmp_path)
    assert_same(other, model)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(other(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_a_model_in_parts_with_tied_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=30,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = st.convert.sparsify(transformers.LlamaForCausalLM(config), {"*mlp*": 0.2})
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    other = from_pretrained(transformers.LlamaForCausalLM, tmp_path)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert_same(other, model)


def test_half_precision(tmp_path: Path) -> None:
    model = classifier(0).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    other = from_pretrained(type(model), tmp_path, dtype=torch.bfloat16)
    assert_same(other, model)
    assert other.bert.encoder.layer[0].output.dense.values.dtype is torch.float32


def test_what_from_pretrained_refuses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = transformers.BertModel(transformers.BertConfig(**SIZES))
    dense.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"expected layers over edges in .*, found none. Use BertModel.from_pretrained"
    ):
        from_pretrained(transformers.BertModel, tmp_path)
    model = classifier(0)
    model.bert.save_pretrained(tmp_path / "sparse")
    with pytest.raises(ValueError, match=r"expected layers named as in .*, GPT2Model has none of \['encoder"):
        from_pretrained(transformers.GPT2Model, tmp_path / "sparse", config=transformers.GPT2Config(n_embd=8, n_head=2))
    with pytest.raises(TypeError, match=r"expected a class of models such as BertModel, got .*AutoModel"):
        from_pretrained(transformers.AutoModel, tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(OSError, match=r"expected model.safetensors in"):
        from_pretrained(transformers.BertModel, tmp_path / "nothing")
