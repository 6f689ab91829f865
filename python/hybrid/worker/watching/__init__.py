"""Tells what happens: task events and log lines."""
