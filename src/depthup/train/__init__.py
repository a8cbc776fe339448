"""Training: the Hugging Face Trainer with our batches, our loss and exact resume."""
