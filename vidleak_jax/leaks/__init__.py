"""A leak: what was sent, on disk and from elsewhere."""
