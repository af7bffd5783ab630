"""torch's own operations on CSR tensors and rows: any device."""
