"""A model before its weights are loaded: what its folder holds, whether it is whole, what it reads."""
