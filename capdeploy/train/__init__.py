"""Changing weights: head, BN statistics, fine-tuning, and judging by accuracy."""
