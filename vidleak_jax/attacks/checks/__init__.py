"""What `self_check` looks at: one file for each part of a leak."""
