"""Result backends for many greenlets."""
