# Who speaks to Kafka, and what each needs and no more. Functions other than dlq_router speak to no broker, so they have no user.
# Since Kafka 2.8 an idempotent producer needs no right beyond that to write; to read or to write is to describe, too.
locals {
  consumers = flatten([
    for topic in local.contract.topics : [
      for consumer in topic.consumers : {
        topic = local.topics[topic.name].name
        group = lookup(var.names, consumer.setting, consumer.group)
      }
    ]
  ])
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

resource "kafka_acl" "all" {
  for_each = { for acl in local.acls : "${acl.user} ${acl.operation} ${acl.type} ${acl.name}" => acl if var.acls }

  acl_principal                = "User:${each.value.user}"
  acl_host                     = "*"
  acl_operation                = each.value.operation
  acl_permission_type          = "Allow"
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
}

# A password has to be known when the plan is made (the provider breaks down otherwise), so none is generated here.
resource "kafka_user_scram_credential" "all" {
  for_each = nonsensitive(toset(keys(var.user_passwords)))

  username         = each.key
  scram_mechanism  = "SCRAM-SHA-512"
  scram_iterations = 8192
  password         = var.user_passwords[each.key]
}
