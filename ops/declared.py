"""A topic of contracts/topics.yaml, as so many brokers can have it, and beside what they have."""

from collections.abc import Mapping

from shared import errors, topics


def fitted(topic: topics.Topic, brokers: int, *, local: bool) -> topics.Topic:
    """`topic` with no more replicas than there are brokers. Raises Refused where that might be a broker that is only away for now."""
    if topic.replication_factor <= brokers:
        return topic
    if brokers > 1 and not local:
        raise errors.Refused(
            f"{topic.name}: {topic.replication_factor} replicas are declared and {brokers} brokers answer; "
            "start the others, or say --local to do with fewer",
            code="brokers_missing",
        )
    return topic.model_copy(update={"replication_factor": brokers, "min_insync_replicas": min(topic.min_insync_replicas, brokers)})


def config(topic: topics.Topic) -> dict[str, str]:
    """The settings that it is created with."""
    return dict(topic.config) | {"min.insync.replicas": str(topic.min_insync_replicas)}


def reduced(made: topics.Topic, wanted: topics.Topic) -> tuple[str, ...]:
    """What `made` has less of than was `wanted`, in a sentence; empty where nothing is missing."""
    if made.replication_factor == wanted.replication_factor:
        return ()
    return (
        f"replicas {made.replication_factor} instead of {wanted.replication_factor}, min.insync.replicas {made.min_insync_replicas} "
        f"instead of {wanted.min_insync_replicas}: there are no more brokers",
    )


def unlike(topic: topics.Topic, found: Mapping[str, str]) -> dict[str, str]:
    """What is declared otherwise than in the settings `found`, as it is declared."""
    return {key: value for key, value in config(topic).items() if found.get(key, value) != value}


def differences(topic: topics.Topic, partitions: int, replicas: int, found: Mapping[str, str]) -> list[str]:
    """By what the brokers' topic differs from the declared one, a sentence each; partitions only where there are more."""
    notes = [f"{key} is {found[key]}, declared is {value}" for key, value in unlike(topic, found).items()]
    if replicas != topic.replication_factor:
        notes.append(f"replicas are {replicas}, declared are {topic.replication_factor}")
    if partitions > topic.partitions:
        notes.append(f"partitions are {partitions}, declared are {topic.partitions}; they only ever grow")
    return notes
