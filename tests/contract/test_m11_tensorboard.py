"""M11: TensorBoard shows loss, learning rate and gradient distributions."""


def test_m11_the_log_holds_curves_distributions_and_previews(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(trained.root / "output/my_style/logs"), size_guidance={"images": 0})
    board.Reload()
    tags = board.Tags()
    assert {
        "train/loss",
        "train/gradient_norm",
        "validation/loss",
        "learning_rate/predictor",
        "weights/norm_lora_B",
        "speed/examples_per_second",
        "speed/memory_gib",
    } <= set(tags["scalars"])
    assert {"gradients/lora_A", "gradients/lora_B", "weights/lora_B"} <= set(tags["histograms"])
    assert "preview/0" in tags["images"]
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 9))
