"""The model: a text LLM with inserted layers, a speech encoder, a projector and the processor before them."""
