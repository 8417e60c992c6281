"""What the machine can do at best: the same work without a framework, PostgreSQL without Kafka, and Kafka without PostgreSQL."""
