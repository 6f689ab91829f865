"""From calls of tasks to messages, inside tasks."""
