"""Speech as discrete tokens: k-means over an audio encoder, a neural codec, and the tokenizer that both make."""
