"""The science: tensors in, tensors out. No paths, no ranks, no experiment."""
