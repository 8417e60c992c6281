# Who speaks to Kafka, and what each needs and no more. Functions other than dlq_router speak to no broker, so they have no user.
# Since Kafka 2.8 an idempotent producer needs no right beyond that to write; to read or to write is to describe, too.
locals {
  consumed     = distinct(local.consumers[*].topic)
  groups       = distinct(local.consumers[*].group)
  events       = [for topic in local.contract.topics : local.topics[topic.name].name if can(topic.event)]
  dead_letters = [for topic in local.contract.dead_letter_topics : local.topics[topic.name].name]

  rights = {
    # Every Kafka source, ours or Knative's.
    orderflow-source = [
      { type = "Topic", operation = "Read", names = local.consumed },
      { type = "Group", operation = "Read", names = local.groups },
    ]
    # Events, and the letters that dlq_router left in the outbox while Kafka was away.
    orderflow-relay = [
      { type = "Topic", operation = "Write", names = concat(local.events, local.dead_letters) },
    ]
    orderflow-dlq-router = [
      { type = "Topic", operation = "Write", names = local.dead_letters },
    ]
    # The `orderflow` command: index, archive and replay of letters, replay of events, the sources' lag. It works in groups of its own.
    orderflow-command = [
      { type = "Topic", operation = "Read", names = concat(local.events, local.dead_letters) },
      { type = "Group", operation = "Read", names = ["orderflow-"], pattern = "Prefixed" },
      { type = "Group", operation = "Describe", names = local.groups },
    ]
  }

  acls = flatten([
    for user, rights in local.rights : [
      for right in rights : [
        for name in right.names : {
          user      = user
          type      = right.type
          operation = right.operation
          name      = name
          pattern   = try(right.pattern, "Literal")
        }
      ]
    ]
  ])
}
