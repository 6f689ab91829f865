"""Clients of databases that greenlets share."""
