"""Runs jobs: admission, slots, limits, the timer, the tracer's parts."""
