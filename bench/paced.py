"""`python -m bench.paced BROKERS TOPIC COUNT DATASET PER_SECOND`: writes the first COUNT events of a data set at a steady rate."""

import itertools
import sys
import time

from bench.dataset import Dataset, Writer

STEP_S = 0.005


def main(brokers: str, topic: str, count: int, dataset_count: int, per_second: float) -> None:
    """Write them. What is late is made up for, so the rate holds over the whole time."""
    dataset = Dataset(dataset_count)
    events = [(event, dataset.value(event)) for event in itertools.islice(dataset.assembled(), count)]
    writer = Writer(brokers, **{"linger.ms": 5})  # a producer that sends each event alone would take a core that the row needs
    began, sent = time.monotonic(), 0
    while sent < count:
        due = min(count, int((time.monotonic() - began) * per_second) + 1)
        for event, value in events[sent:due]:
            writer.write(topic, event, value)
        sent = max(sent, due)
        time.sleep(STEP_S)
    writer.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
