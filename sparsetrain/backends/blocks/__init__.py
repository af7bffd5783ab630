"""Dense products of blocks of rows that are made for the moment: any device, and CPUs where most positions have edges."""
