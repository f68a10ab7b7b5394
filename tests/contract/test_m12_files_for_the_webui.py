"""M12: ``pytorch_lora_weights.safetensors`` is in the one layout that every client loads."""

import torch
from safetensors import safe_open


def test_m12_every_layer_has_kohya_names_and_one_alpha(trained):
    with safe_open(trained.root / "output/my_style/pytorch_lora_weights.safetensors", "pt") as file:
        names = list(file.keys())
        metadata = file.metadata()
        alphas = {float(file.get_tensor(name)) for name in names if name.endswith(".alpha")}
    layers = {name.split(".")[0] for name in names}
    assert alphas == {2.0}
    assert all(
        layer.startswith("lora_unet_down_blocks_") or "_blocks_" in layer or "mid_block" in layer
        for layer in layers
    )
    for layer in layers:
        assert {f"{layer}.alpha", f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"} <= set(names)
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_output_name"] == "my_style"
    assert "lora_adapter_metadata" not in metadata


def test_m12_diffusers_makes_other_pictures_with_it(trained):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(trained.base, local_files_only=True, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def picture():
        generator = torch.Generator().manual_seed(0)
        return torch.from_numpy(
            pipe(
                "a red house",
                num_inference_steps=2,
                height=16,
                width=16,
                generator=generator,
                output_type="np",
            ).images
        )

    before = picture()
    pipe.load_lora_weights(
        trained.root / "output/my_style",
        weight_name="pytorch_lora_weights.safetensors",
        local_files_only=True,
    )
    assert not torch.equal(before, picture())
    assert trained.result()["readback"]["weights"] == 0.0
