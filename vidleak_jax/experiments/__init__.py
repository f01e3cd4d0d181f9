"""Jobs that put the stages together."""
