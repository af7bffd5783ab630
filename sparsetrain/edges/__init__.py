"""What has edges and values for them, and what reads those: below layers, optimizers and initial values."""
