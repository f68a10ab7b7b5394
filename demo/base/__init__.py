"""Makes the embedded base model `builtin:demo` from nothing but drawn pictures (`python -m demo.base`)."""
