# contracts/ as Terraform needs it. No provider, no resource: `terraform` alone can evaluate it, and a test does.

locals {
  contract = yamldecode(file("${var.folder}/topics.yaml"))
  defaults = local.contract.defaults
  rows     = concat(local.contract.topics, local.contract.dead_letter_topics)

  # As shared/topics.py reads them: a row's own values over the defaults, its config merged with theirs. No topic has more replicas
  # than there are brokers.
  topics = {
    for row in local.rows : row.name => {
      name               = lookup(var.names, row.setting, row.name)
      partitions         = try(row.partitions, local.defaults.partitions)
      replication_factor = min(try(row.replication_factor, local.defaults.replication_factor), var.brokers)
      config = merge(
        { for key, value in merge(local.defaults.config, try(row.config, {})) : key => tostring(value) },
        { "min.insync.replicas" = tostring(min(try(row.min_insync_replicas, local.defaults.min_insync_replicas), var.brokers)) },
      )
    }
  }

  consumers = flatten([
    for topic in local.contract.topics : [
      for consumer in topic.consumers : {
        topic = local.topics[topic.name].name
        group = lookup(var.names, consumer.setting, consumer.group)
        role  = "orderflow_${trimsuffix(consumer.inbox, "_inbox_events")}"
      }
    ]
  ])

  # As ops/roles.py reads them: a consumer's role is named after its inbox, roles.yaml has the others.
  roles = toset(concat(yamldecode(file("${var.folder}/roles.yaml")).roles[*].name, local.consumers[*].role))
}
