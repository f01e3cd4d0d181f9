"""Attacks that iterate on the pixels."""
