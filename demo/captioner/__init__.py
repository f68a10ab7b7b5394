"""Makes the embedded captioner `builtin:demo` from drawn pictures alone (`python -m demo.captioner`)."""
