"""Dense products of blocks of rows that are made for the moment: where most positions have edges, and on GPUs."""
