"""The programs: flags, and what a terminal shows."""
