"""M14: one base, many LoRAs: plugged in, combined and switched at inference."""


def ask(desk, *words):
    done = desk.cli("chat", "--ask", "Where is my parcel?", "--max-new-tokens", "12", *words)
    assert done.code == 0, done.text
    return done.out


def test_a_text_lora_is_plugged_in_combined_and_taken_off(trained_voice, make_text_desk):
    other = make_text_desk()
    assert other.train(other.config(seed=7, learning_rate=2e-2, output_dir="./output/pirate")).code == 0
    voice, pirate = trained_voice.root / "output/voice", other.root / "output/pirate"
    base = ("--base", trained_voice.base)
    bare = ask(trained_voice, *base)
    one = ask(trained_voice, *base, "--lora", pirate)
    none = ask(trained_voice, *base, "--lora", f"{pirate}:0")
    both = ask(trained_voice, *base, "--lora", f"{voice}:0.5", "--lora", f"{pirate}:0.5")
    assert one != bare
    assert none.splitlines()[-1:] == bare.splitlines()[-1:]
    assert both


def test_pictures_are_made_with_several_loras(trained):
    weights = trained.root / "output/my_style/pytorch_lora_weights.safetensors"
    words = ["generate", "--prompt", "a red house", "--steps", "1", "--width", "16", "--height", "16"]
    words += ["--lora", f"{weights}:0.5", "--lora", f"{weights}:0.5", "--output", "both.png"]
    done = trained.cli(*words, "--base", trained.base)
    assert done.code == 0, done.text
    assert (trained.root / "both.png").exists()
