"""The Kafka source: delivers records as CloudEvents over HTTP, at least once, in the order of their keys.

manifest     KafkaSource documents, checked
plan         what a source does: environment over manifest over contracts/topics.yaml
record       one record, and the CloudEvent that it is
splice       the short way from a record to an element of a batch
partition    which offset may be committed
lanes        order per key, and what is ready to be sent
answers      what came back, as one of five kinds
http1        connections to the function
sink         HTTP to the function: what is sent, and what its failures mean
letter       HTTP to the dead-letter sink, until it is safe
breaker      when nearly everything would become a letter: pause, probe, resume
outage       when a dependency is away: pause, probe, resume
suspects     requests without an answer: health first, then halves, until the culprit is alone
verdicts     what each answer means for its records
pump         deliveries in flight
topic_watch  whether a topic is still the one it was, and where it ends
commits      what is settled without a gap, and the topic it belongs to
assignment   which partitions are ours, and where each begins
consumer     the one thread that speaks to Kafka
service      one source as a whole
control      status, pause and resume, metrics
"""
