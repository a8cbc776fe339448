"""What the quickstart needs on a machine that has only Python: a small corpus, a real base model, and a run of both."""
