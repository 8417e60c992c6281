"""The whole effect of a batch as one statement, which is one transaction by itself."""

APPLY = """
WITH claimed AS (
    INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[])
    ON CONFLICT (event_id) DO NOTHING RETURNING order_id
)
UPDATE orders SET status = 'assembled' WHERE id IN (SELECT order_id FROM claimed) AND status = 'paid'
"""
