"""What computes products and row steps: one folder for each way, and the choice among them."""
