"""Toy checkpoints of ChatGLM2 and ChatGLM3 in their original files equal the original computation, and no
code that comes with them runs."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _chatglm_layout as layout
from lora_scripts.families import _source
from lora_scripts.families.chatglm import FAMILY
from tests.families import chatglm_toy as toy

KINDS = {
    "chatglm2": (2, {}, {}),
    "chatglm3": (3, {}, {}),
    "chatglm2-32k": (2, {"rope_ratio": 4}, {"divisor": 4.0}),
    "chatglm3-32k": (3, {"rope_ratio": 50}, {"base": 5e5}),
}
IDS = torch.randint(0, 700, (2, 33), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("base") / "chatglm3-toy")


@pytest.fixture
def model(folder):
    return FAMILY.load(_source.resolve(str(folder)))


def double(state):
    return {name: tensor.double() for name, tensor in state.items()}


def stopped(call, *args, **options):
    with pytest.raises(ProblemsError) as raised:
        call(*args, **options)
    return raised.value.problems


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_original_computation(tmp_path, kind):
    generation, changes, turned = KINDS[kind]
    source = _source.resolve(str(toy.write(tmp_path / "base", generation, **changes)))
    assert _source.find("auto", source) is FAMILY
    module = FAMILY.load(source).predictor
    with torch.no_grad():
        found = module(IDS).logits
    for row, ids in zip(found, IDS, strict=True):
        expected = toy.logits(double(toy.weights()), ids, **turned)
        assert expected.std() > 0.5
        assert (row - expected).abs().max() <= 1e-5


def test_loss_and_gradients_equal_the_original_computation(model):
    state = {n: t.requires_grad_() for n, t in double(toy.weights()).items()}
    targets = torch.zeros(2, 33, dtype=torch.bool)
    targets[0, 9:20] = targets[1, 4:] = True
    items = [{"ids": ids, "targets": mask} for ids, mask in zip(IDS, targets, strict=True)]
    assert model.packing
    for parameter in model.predictor.parameters():
        parameter.requires_grad_(True)
    loss = -model.family.predict(model, model.family.collate(model, items)).sum()
    loss.backward()
    expected = torch.zeros((), dtype=torch.float64)
    for ids, mask in zip(IDS, targets, strict=True):
        told = toy.logits(state, ids).log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
        expected = expected - told[mask[1:]].sum()
    expected.backward()
    assert (loss - expected).abs() <= 1e-5 * expected
    gradients = {n: p.grad for n, p in model.predictor.named_parameters() if "norm" not in n}
    found = layout.original_weights(gradients)
    wanted = {n: t.grad for n, t in state.items() if "rotary" not in n and "norm" not in n}
    wanted["transformer.embedding.word_embeddings.weight"][0] = 0  # the padding word's row takes no gradient
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_the_description_reads_no_weights(folder):
    described = FAMILY.describe(_source.resolve(str(folder)))
    assert (described.model_type, described.context, described.vocabulary) == ("glm", 256, toy.WORDS)
    modules = described.modules["model"]
    assert modules["model.layers.1.self_attn.k_proj"] == (toy.GROUPS * toy.HEAD, toy.WIDTH)
    assert modules["model.layers.0.mlp.gate_up_proj"] == (2 * toy.INNER, toy.WIDTH)
    total = sum(t.numel() for n, t in toy.weights().items() if "rotary" not in n)
    assert described.parameters["model"] == total
    assert all(p.is_meta for p in described.build()["model"].parameters())


def test_weights_come_in_the_dtype_that_is_asked_for(folder):
    module = FAMILY.load(_source.resolve(str(folder)), dtype=torch.bfloat16).predictor
    fused = toy.weights()["transformer.encoder.layers.1.self_attention.query_key_value.weight"]
    keys = fused.bfloat16()[toy.HEADS * toy.HEAD :][: toy.GROUPS * toy.HEAD]
    assert torch.equal(module.model.layers[1].self_attn.k_proj.weight, keys)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_weights_can_be_quantised_while_they_load(folder):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    module = FAMILY.load(_source.resolve(str(folder)), quantization="4bit").predictor
    layer = module.model.layers[0].self_attn.v_proj
    assert type(layer).__name__ == "Linear4bit"
    fused = toy.weights()["transformer.encoder.layers.0.self_attention.query_key_value.weight"]
    values = fused[-toy.GROUPS * toy.HEAD :].contiguous()
    wanted = dequantize_4bit(*quantize_4bit(values, quant_type="nf4", compress_statistics=True))
    with torch.no_grad():
        found = layer(torch.eye(toy.WIDTH)) - layer.bias
    assert (found.T - wanted).abs().max() <= 0.01 * wanted.abs().max()


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_every_tensor_is_accounted_for(tmp_path, change):
    state = toy.weights()
    name = "transformer.encoder.layers.1.self_attention.query_key_value.bias"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = state[name][:-1]
    else:
        name = "transformer.prefix_encoder.embedding.weight"
        state[name] = torch.zeros(4, 4)
    source = _source.resolve(str(toy.write(tmp_path / "base", state=state)))
    for verb in (FAMILY.describe, FAMILY.load):
        (problem,) = stopped(verb, source)
        assert (problem.code, problem.params["count"], problem.params["names"]) == ("LS4156", 1, name)


def test_the_code_that_comes_with_the_weights_never_runs(tmp_path):
    folder, mark = toy.write(tmp_path / "base"), tmp_path / "mark"
    for name in ("configuration", "modeling", "tokenization"):
        code = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('ran')\n# <|assistant|>\n"
        (folder / f"{name}_chatglm.py").write_text(code)
    source = _source.resolve(str(folder))
    FAMILY.describe(source)
    FAMILY.load(source)
    assert FAMILY.generation(source) == 3
    assert not mark.exists()
    assert not any("modeling_chatglm" in name for name in sys.modules)


V1 = {"position_encoding_2d": True, "inner_hidden_size": 16384, "num_layers": 28, "vocab_size": 130528}
OTHERS = {
    "LS4151": {"padded_vocab_size": 151552, "rope_ratio": 500, "num_layers": 40},
    "LS4152": {"multi_query_attention": False, "add_bias_linear": True},
    "LS4153": {"quantization_bit": 4},
}


@pytest.mark.parametrize("code", OTHERS)
def test_what_only_goes_by_the_name_is_refused(tmp_path, code):
    source = _source.resolve(str(toy.write(tmp_path / "base", **OTHERS[code])))
    assert _source.find("auto", source) is FAMILY
    problems = stopped(FAMILY.describe, source)
    assert {problem.code for problem in problems} == {code}
    assert len(problems) == (2 if code == "LS4152" else 1)
    assert problems[0].where.file.endswith("config.json")


def test_the_first_chatglm_is_refused_whichever_family_is_asked(tmp_path):
    folder = toy.write(tmp_path / "base")
    (folder / "config.json").write_text(json.dumps({"model_type": "chatglm", **V1}))
    source = _source.resolve(str(folder))
    found = _source.find("auto", source).describe
    assert [p.code for p in stopped(found, source)] in (["LS4100"], ["LS4150"])  # both say what to use
    for verb in (FAMILY.describe, FAMILY.tokenizer, FAMILY.load):
        assert [p.code for p in stopped(verb, source)] == ["LS4150"]


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_never_opened(tmp_path, name):
    folder = toy.write(tmp_path / "base")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    source = _source.resolve(str(folder))
    assert [p.code for p in stopped(FAMILY.describe, source)] == ["LS4103"]
    (folder / name).write_bytes(b"\x80\x02")  # of a repository, only the index may have been fetched
    assert [p.code for p in stopped(FAMILY.load, source)] == ["LS4013"]


@pytest.mark.parametrize(
    ("given", "told", "code", "wanted"),
    [
        ("THUDM/chatglm3-6b", "{}", None, 3),
        ("THUDM/chatglm2-6b", "{}", None, 2),
        ("THUDM/codegeex2-6b", "{}", None, 2),
        ("./mine", '{"name_or_path": "zai-org/chatglm3-6b-32k"}', None, 3),
        ("./mine", '{"added_tokens_decoder": {"64796": {"content": "<|assistant|>"}}}', None, 3),
        ("./chatglm3", "{}", 'special_tokens = ["[MASK]", "sop"]', 2),
        ("./mine", "{}", None, None),
    ],
)
def test_what_tells_the_two_apart(tmp_path, given, told, code, wanted):
    (tmp_path / "tokenizer_config.json").write_text(told)
    if code:
        (tmp_path / "tokenization_chatglm.py").write_text(code)
    assert layout.generation(given, tmp_path, {}) == wanted


def test_stretched_positions_need_to_know_which_of_the_two(tmp_path):
    with pytest.raises(ProblemsError) as raised:
        layout.native_settings({**toy.CONFIG, "rope_ratio": 8}, None, tmp_path)
    assert raised.value.problems[0].code == "LS4155"


def test_it_writes_with_the_native_cache(folder, model):
    module, state = model.predictor, double(toy.weights())
    prompt = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "您好"}], add_generation_prompt=True, return_tensors="pt"
    )
    made = module.generate(**prompt, max_new_tokens=8, do_sample=False, use_cache=True)[0]
    ids = prompt["input_ids"][0]
    stops = [2, model.tokenizer.words.ids["<|user|>"], model.tokenizer.words.ids["<|observation|>"]]
    assert module.generation_config.eos_token_id == stops
    for _ in range(8):
        ids = torch.cat([ids, toy.logits(state, ids)[-1].argmax()[None]])
        if int(ids[-1]) in stops:
            break
    assert made.tolist() == ids.tolist()
    module.generation_config.eos_token_id = [int(made[len(prompt["input_ids"][0])])]
    assert (
        len(module.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
        == prompt["input_ids"].shape[1] + 1
    )


def test_it_is_saved_as_a_glm_that_everybody_loads(tmp_path, model):
    from transformers import AutoModelForCausalLM

    model.predictor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GlmForCausalLM"]
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(again) is type(model.predictor)
    state = model.predictor.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    with torch.no_grad():
        assert (again(IDS).logits - model.predictor(IDS).logits).abs().max() <= 1e-5


def test_weights_go_back_into_the_original_layout(model):
    wanted = {n: t for n, t in toy.weights().items() if "rotary" not in n}
    found = layout.original_weights(model.predictor.state_dict())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_glm4_is_loaded_and_saved_as_ever(tmp_path, model):
    from safetensors import safe_open

    from tests.texts import small

    small.write_model(tmp_path, "glm")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "model.layers.0.self_attn.q_proj.weight" in file.keys()  # noqa: SIM118
    source = _source.resolve(str(tmp_path))
    assert _source.find("auto", source).sheet.name == "causal_lm"
