"""`python -m bench.limits.kafka_alone RECORDS TIMES PARTITIONS`: reads a topic of so many records, so many times."""

import json
import os
import sys
import time

from confluent_kafka import Consumer, TopicPartition

BATCH = 500


def main(records: int, times: int, partitions: int) -> dict[str, float]:
    """When it began and ended, in seconds since 1970. The first time is not counted."""
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BROKERS"],
            "group.id": "bench-kafka-alone",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,  # at the end of the topic, so that the next time begins at once
            "log_level": 3,
        }
    )
    _read(consumer, records, partitions)
    started_at = time.time()
    for _ in range(times):
        _read(consumer, records, partitions)
    ended_at = time.time()
    consumer.close()
    return {"started_at": started_at, "ended_at": ended_at}


def _read(consumer: Consumer, records: int, partitions: int) -> None:
    """All records of the topic."""
    consumer.assign([TopicPartition(os.environ["TOPIC"], n, 0) for n in range(partitions)])
    left = records
    while left > 0:
        for message in consumer.consume(min(BATCH, left), 0.05):
            if (error := message.error()) is not None:
                raise SystemExit(error.str())
            left -= 1


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))  # noqa: T201  its result
