"""Super-resolution: the stage after the attack."""
