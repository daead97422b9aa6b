"""Quantizers and integer golden models."""
