"""The Room aggregate: its facts, its decisions, and who may see what of it."""
