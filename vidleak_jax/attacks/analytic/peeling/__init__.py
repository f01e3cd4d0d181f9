"""Layer peeling: residual networks by linear algebra, block after block."""
