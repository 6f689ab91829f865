"""Thousands of ``apply_async`` from many greenlets at once, and proof that every one arrived."""
