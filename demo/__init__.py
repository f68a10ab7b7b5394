"""The demo: a small drawn world, a base model trained on it, and a LoRA that gives it a new style."""
