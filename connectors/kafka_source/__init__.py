"""The Kafka source: delivers records as CloudEvents over HTTP, at least once, in the order of their keys.

manifest   KafkaSource documents, checked
plan       what a source does: environment over manifest over contracts/topics.yaml
record     one record, and the CloudEvent that it is
partition  which offset may be committed
lanes      order per key, and what is ready to be sent
answers    what came back, as one of five kinds
sink       HTTP to the function
letter     HTTP to the dead-letter sink, until it is safe
outage     when a dependency is away: pause, probe, resume
pump       deliveries in flight, retries, the search for a culprit
consumer   the one thread that speaks to Kafka
control    status, pause and resume, metrics
"""
