"""What an honest client computes, defends and sends."""
