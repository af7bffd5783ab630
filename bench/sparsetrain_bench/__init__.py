"""``sparsetrain bench``: contestants in processes of their own, checked, then timed in interleaved rounds."""
