"""Devices, programs, checkpoints and run folders."""
