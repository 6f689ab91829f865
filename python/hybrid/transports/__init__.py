"""kombu transports whose messages are decoded in Rust."""
