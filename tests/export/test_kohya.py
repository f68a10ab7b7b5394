"""The file for every client: names, shapes, one alpha, the trained strength, and a header without secrets."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.kohya import export_lora, lora_tensors
from lora_scripts.export.metadata import body_hashes


def metadata_of(path):
    with safe_open(path, "pt") as handle:
        return handle.metadata()


def test_every_layer_has_its_three_tensors_in_the_clients_shapes(tmp_path, load, facts):
    model, adapter = load()
    done = export_lora(tmp_path / "my.safetensors", model, adapter, facts)
    found = load_file(str(done.path))
    modules = {(c, m): model.family.names(c, m) for c, names in adapter.matched.items() for m in names}
    assert len(set(modules.values())) == len(modules) == done.layers
    assert set(found) == {
        f"{name}{end}"
        for name in modules.values()
        for end in (".alpha", ".lora_down.weight", ".lora_up.weight")
    }
    for (component, module), name in modules.items():
        shape = model.description.modules[component][module]
        down, up = found[f"{name}.lora_down.weight"], found[f"{name}.lora_up.weight"]
        assert down.shape == (4, *shape[1:])
        assert up.shape == (shape[0], 4, *(1 for _ in shape[2:]))
        assert down.dtype == up.dtype == torch.float16
        alpha = found[f"{name}.alpha"]
        assert (alpha.shape, alpha.dtype, float(alpha)) == ((), torch.float32, 3.0)
        assert name.startswith("lora_unet_" if component == "unet" else "lora_te_text_model_encoder_")


def test_a_client_computes_the_trained_effect(load):
    """alpha / rank * up @ down, as each client does, is what the layer adds."""
    model, adapter = load(alpha=1.0)
    found = lora_tensors(model, adapter, torch.float32)
    for component, names in adapter.matched.items():
        for module in names:
            own, name = f"{component}.{module}", model.family.names(component, module)
            up, down = (
                found[f"{name}.lora_up.weight"].flatten(1),
                found[f"{name}.lora_down.weight"].flatten(1),
            )
            client = float(found[f"{name}.alpha"]) / down.shape[0] * up @ down
            ours = adapter.layers[own].get_delta_weight("default").flatten(1)
            torch.testing.assert_close(client, ours.detach())


def test_a_layers_own_scale_is_folded_into_up(load):
    model, adapter = load(alpha=4.0)
    own = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before = lora_tensors(model, adapter, torch.float32)
    adapter.layers[own].scaling["default"] *= 0.3
    after = lora_tensors(model, adapter, torch.float32)
    name = model.family.names(*own.split(".", 1))
    torch.testing.assert_close(after[f"{name}.lora_up.weight"], 0.3 * before[f"{name}.lora_up.weight"])
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"{name}.lora_up.weight"}


def test_equal_content_gives_equal_bytes_wherever_it_lies(tmp_path, load, facts):
    import dataclasses

    model, adapter = load()
    elsewhere = dataclasses.replace(facts, config={**facts.config, "output_dir": "/other", "cache_dir": "/x"})
    export_lora(tmp_path / "a.safetensors", model, adapter, facts)
    export_lora(tmp_path / "deep" / "b.safetensors", model, adapter, elsewhere)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "deep" / "b.safetensors").read_bytes()
    assert b"secret" not in data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_numbers_that_no_client_can_use_are_not_written(tmp_path, load, facts, value):
    model, adapter = load()
    name = "unet.mid_block.attentions.0.proj_in.lora_B.weight"
    with torch.no_grad():
        adapter.parameters[name].view(-1)[3] = value
    with pytest.raises(ProblemsError) as caught:
        export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    assert caught.value.problems[0].code == "LS4030"
    assert caught.value.problems[0].params["layers"] == name.removesuffix(".lora_B.weight")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_header_tells_clients_what_the_file_is(tmp_path, load, facts):
    model, adapter = load()
    export_lora(tmp_path / "my.safetensors", model, adapter, facts)
    found = metadata_of(tmp_path / "my.safetensors")
    wanted = {
        "ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_network_module": "networks.lora",
        "ss_network_dim": "4", "ss_network_alpha": "3.0", "ss_network_args": "{}",
        "ss_output_name": "my_style",
        "ss_learning_rate": "0.0001", "ss_seed": "7", "ss_steps": "100", "ss_resolution": "16,16",
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers", "modelspec.title": "my_style",
        "modelspec.resolution": "16x16",
        "modelspec.trigger_phrase": "mystyle", "modelspec.prediction_type": "epsilon",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert json.loads(found["ss_tag_frequency"]) == {"pics": {"a red house": 3}}
    assert json.loads(found["lora_scripts_config"]) == {
        "learning_rate": 1e-4,
        "seed": 7,
        "output_name": "my_style",
    }
    assert json.loads(found["lora_scripts_data"]) == {"pictures": 3}
    assert "lora_adapter_metadata" not in found
    assert all(isinstance(value, str) for value in found.values())
    assert not [n for n in found if "time" in n or "date" in n or "session" in n or n.endswith("_at")]


def test_the_header_says_how_errors_were_counted_only_where_it_was_not_as_usual(tmp_path, load, facts):
    import dataclasses

    model, adapter = load()
    plain = metadata_of(export_lora(tmp_path / "a.safetensors", model, adapter, facts).path)
    assert not [name for name in plain if "snr" in name or "huber" in name or "offset" in name]
    config = {
        **facts.config,
        "min_snr_gamma": 5.0,
        "noise_offset": 0.05,
        "loss_type": "huber",
        "huber_c": 0.2,
    }
    told = dataclasses.replace(facts, config={**config, "huber_schedule": "snr", "clip_skip": 2})
    found = metadata_of(export_lora(tmp_path / "b.safetensors", model, adapter, told).path)
    assert {name: found[name] for name in found.keys() - plain.keys()} == {
        "ss_min_snr_gamma": "5.0", "ss_noise_offset": "0.05", "ss_loss_type": "huber", "ss_huber_c": "0.2",
        "ss_huber_schedule": "snr",
    }  # fmt: skip
    assert (plain["ss_clip_skip"], found["ss_clip_skip"]) == ("None", "2")


def sd_scripts_hashes(data: bytes) -> tuple[str, str]:
    """addnet_hash_safetensors and addnet_hash_legacy of sd-scripts over a whole file's bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[start:]).hexdigest(), hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]


def test_hashes_are_those_that_sd_scripts_computes(tmp_path, load, facts):
    from lora_scripts.export.tensors_file import write_safetensors

    model, adapter = load()
    done = export_lora(tmp_path / "my.safetensors", model, adapter, facts)
    only = {n: v for n, v in done.metadata.items() if n.startswith("ss_")}
    write_safetensors(tmp_path / "ss.safetensors", done.tensors, only)
    full, legacy = sd_scripts_hashes((tmp_path / "ss.safetensors").read_bytes())
    assert (done.metadata["sshs_model_hash"], done.metadata["sshs_legacy_hash"]) == (full, legacy)
    assert done.metadata["modelspec.hash_sha256"] == f"0x{full}"
    large = {f"t{n}": torch.full((400_000,), float(n)) for n in range(3)}
    write_safetensors(tmp_path / "large.safetensors", large, {"ss_a": "1"})
    assert body_hashes(large, {"ss_a": "1"}) == sd_scripts_hashes(
        (tmp_path / "large.safetensors").read_bytes()
    )


def test_a_v_prediction_base_is_marked(tmp_path, load, facts):
    import dataclasses

    model, adapter = load()
    model.description = dataclasses.replace(model.description, prediction_type="v_prediction")
    found = export_lora(tmp_path / "v.safetensors", model, adapter, facts).metadata
    assert found["ss_base_model_version"] == "sd_v1_v"
    assert found["modelspec.prediction_type"] == "v"
