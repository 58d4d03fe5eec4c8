"""Spikeloom."""
