"""Seeded nonsense at the package's doors: it works, or says what is wrong."""
