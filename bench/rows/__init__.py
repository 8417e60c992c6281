"""What is measured: rows that consume a topic, rows that answer requests, and rows that empty the outbox."""
