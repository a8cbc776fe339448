"""What a recipe will cost, found by running its training step on tensors that have shapes and no contents."""
