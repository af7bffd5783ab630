"""Which edges exist: the index structure, without values; what users bring and ask for in its place."""
