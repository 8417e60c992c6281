"""Outbox rows become records: claimed in order per key, published, and marked as sent only after Kafka's report.

`schedule` says when to look, `rows` is the SQL, `topics` knows which topics there are, `publisher` produces and waits, `relay` runs it
all, `control` answers HTTP, and `removal` takes away what is long done.
"""
