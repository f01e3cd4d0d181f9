"""What an honest client computes from its clips and does before it sends."""
