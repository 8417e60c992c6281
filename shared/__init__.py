"""What two or more functions use, in the order a record meets it.

config      every setting, read once from the environment
environ     the environment's variables as values of settings, secrets read from their files
logs        one line per fact, text on a terminal and JSON elsewhere
masking     what no line and no answer shows: secrets, and what is personal
errors      the tree of failures; each knows its HTTP status
failures    what a handler raised, as an error of ours
ids         ids of what is made here, which begin with their time
events      the facts that travel: frozen, validated, each made from the last
shortcut    the short way from a payload to its event, where nothing is odd
topics      contracts/topics.yaml: topics, consumers, dead-letter topics
cloudevent  an HTTP request, read as CloudEvents in any of their modes
letters     a dead letter as the index and the consumers know it
problem     a failure as problem+json (RFC 9457)
address     where a DSN points, and how a connection there behaves
literals    Python values as PostgreSQL's text literals
sqlstate    what PostgreSQL's error codes mean here
connection  a connection to PostgreSQL, the driver's errors translated at this one border
schema      which migrations of the database this version works with
database    PostgreSQL: a few connections for many transactions
inbox       the claim that makes a repeated event have no second effect
letters_index  the index of dead letters in PostgreSQL
parking     events that wait behind an open letter of their order
parked      those events, for who sends the letters again
outbox      events staged in the transaction that caused them
grouping    deliveries that arrive together share a transaction
retention   how long rows are kept: for longer than any topic can bring their event
removal     old rows leave their table, a few pages at a time
lease       the inbox of a function whose effect lies outside the database
answer      outcomes as HTTP answers and metrics
delivery    the pipe: request, claim, handler, outbox, commit, answer
broker      Kafka: client settings, for the few who may speak to it
telemetry   Prometheus metrics
connections what a connection may cost: bytes, time, and its place among the others
application  functions-framework's application, without the layers that have no work here
bearer      the token that lets a delivery in, and the one that follows it
server      the process a function runs in: probes, metrics, errors as answers, drain
"""
