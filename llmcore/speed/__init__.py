"""What makes a model fit and run fast: cores and memory, other ways to hold matrices, drafts, batches."""
