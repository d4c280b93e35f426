"""The testbed: a procedural world of short clips, its text prompts, and the instrument that reads clips back."""
