"""The layers that are inserted into a base model."""
