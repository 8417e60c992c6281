"""What can be found in Kafka."""

from ops.doctor.findings import Code, Level

RED, AMBER = Level.RED, Level.AMBER

KAFKA: dict[str, Code] = {
    "topic_missing": Code(
        RED,
        "a declared topic that the brokers do not have",
        "its events wait in the outbox and are set aside after a minute, its letters are not safe on Kafka",
        "`orderflow topics create`",
    ),
    "topic_leaderless": Code(
        RED,
        "a partition without a leader, or with fewer replicas in sync than min.insync.replicas",
        "nothing can be written to it",
        "start the brokers that are away",
    ),
    "topic_out_of_sync": Code(
        AMBER,
        "a partition whose replicas are not all in sync",
        "the next broker that fails stops it",
        "look at the brokers: one is away, or slow",
    ),
    "topic_fewer_partitions": Code(
        AMBER,
        "a topic with fewer partitions than declared",
        "it was made by something else, or made again: fewer sources can share it, and its offsets began anew",
        "`orderflow topics create` adds partitions",
    ),
    "topic_differs": Code(
        AMBER,
        "a topic whose settings differ from contracts/topics.yaml",
        "retention, sizes and copies are reckoned from the file",
        "`orderflow topics create --apply`, or change the file",
    ),
    "replication_single": Code(
        RED,
        "a topic with a single replica in production",
        "a disk that fails takes its records with it",
        "add replicas (kafka-reassign-partitions.sh); a topic that is made anew gets `replication_factor`",
    ),
    "insync_single": Code(
        RED,
        "min.insync.replicas 1 in production",
        "a record that one broker confirmed is lost with that broker, though the outbox row is marked as sent",
        "set min.insync.replicas to 2",
    ),
    "insync_all": Code(
        RED,
        "min.insync.replicas equal to the number of replicas",
        "no write goes through while any one broker is away",
        "set min.insync.replicas to one less than the replicas",
    ),
    "unclean_election": Code(
        RED,
        "unclean leader election is on",
        "a replica that lags may lead, and what it has not is gone though it was confirmed",
        "set unclean.leader.election.enable to false",
    ),
    "auto_create": Code(
        AMBER,
        "the brokers make topics by themselves",
        "a misspelt name becomes a topic with default retention and size, and nobody reads it",
        "set auto.create.topics.enable=false in the brokers' properties",
    ),
    "inbox_forgets": Code(
        RED,
        "an inbox that forgets sooner than a topic does",
        "an event that comes again after its row is gone has its effect twice",
        "raise INBOX_RETENTION, or shorten the topic's retention",
    ),
    "inbox_never_enough": Code(
        RED,
        "a topic without a limit whose inbox removes rows",
        "its oldest events have no row any more, and a replay or a group that begins anew repeats their effects",
        "set retention.ms on the topic, or -1 in contracts/topics.yaml, with which the inbox keeps all",
    ),
    "topic_compacted": Code(
        RED,
        "a topic that is compacted",
        "of an order's events, or letters, only the last is kept, read or not",
        "set cleanup.policy to delete",
    ),
    "topic_bytes_limit": Code(
        RED,
        "a topic with retention.bytes",
        "a burst pushes out records and letters that nobody has handled yet",
        "set retention.bytes to -1",
    ),
    "letters_short": Code(
        RED,
        "a dead-letter topic that keeps letters for too short a time",
        "the topic's own retention eats letters before somebody has found their cause",
        "raise its retention.ms to what the line says",
    ),
    "letters_small": Code(
        RED,
        "a dead-letter topic, or dlq_router, that does not take the largest letter",
        "a record at its topic's limit can have no letter, and holds up its partition",
        "raise the dead-letter topic's max.message.bytes to what the line says, in contracts/topics.yaml too",
    ),
    "records_too_large": Code(
        AMBER,
        "a topic that takes larger records than the functions do",
        "each record in between is answered 413 and becomes a letter",
        "raise EVENT_BYTES_MAX, or lower the topic's max.message.bytes",
    ),
    "timestamps_ahead": Code(
        AMBER,
        "records from the future",
        "retention goes by a record's own time, so they outlive their inbox rows",
        "set the clock of who writes them",
    ),
    "offsets_expire": Code(
        AMBER,
        "committed offsets that expire sooner than records do",
        "a group that is away for so long begins again at the first record, and with `latest` at the end",
        "raise offsets.retention.minutes on the brokers",
    ),
    "records_lost": Code(
        RED,
        "a group whose place lies before the first record that is left",
        "the records in between left the topic unread",
        "look for their events: `orderflow dlq archive`, the outbox, or the producers; then keep records for longer",
    ),
    "offset_beyond_end": Code(
        RED,
        "a group whose place lies beyond the end of the topic",
        "the topic was deleted and made again: KafkaSource passes over new events until they reach the old offset",
        "run our own source, which knows a new topic by its id, or reset the group to the earliest offset",
    ),
    "lag_expiring": Code(
        AMBER,
        "a group whose next record is about to leave the topic",
        "what is not read by then is lost",
        "`orderflow sources list`: start or resume the source; meanwhile raise the topic's retention.ms",
    ),
    "archive_behind": Code(
        AMBER,
        "letters that have not been archived for a day",
        "they are gone with their topic's retention",
        "start `orderflow dlq archive`, and see what it says",
    ),
}
