"""The same work as order_on_assembled as others would write it, each as its own documentation shows it and with at-least-once settings."""
