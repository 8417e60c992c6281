locals {
  contract = yamldecode(file(var.contract))
  defaults = local.contract.defaults
  rows     = concat(local.contract.topics, local.contract.dead_letter_topics)

  # As shared/topics.py reads it: a row's own values over the defaults, its config merged with theirs.
  topics = {
    for row in local.rows : row.name => {
      name                = lookup(var.names, row.setting, row.name)
      partitions          = try(row.partitions, local.defaults.partitions)
      replication_factor  = try(row.replication_factor, local.defaults.replication_factor)
      min_insync_replicas = try(row.min_insync_replicas, local.defaults.min_insync_replicas)
      config              = { for key, value in merge(local.defaults.config, try(row.config, {})) : key => tostring(value) }
    }
  }
}

# A topic that is deleted is lost with its records, and one that is made again begins at offset 0. So whatever would delete one is
# refused by the plan, in every environment: another name, a row that is gone, fewer partitions (the provider would replace the
# topic), `terraform destroy`. More partitions, more replicas and other settings are changed in place.
resource "kafka_topic" "all" {
  for_each = local.topics

  name               = each.value.name
  partitions         = each.value.partitions
  replication_factor = min(each.value.replication_factor, coalesce(var.replicas_max, each.value.replication_factor))

  config = merge(each.value.config, {
    "min.insync.replicas" = tostring(min(each.value.min_insync_replicas, coalesce(var.replicas_max, each.value.min_insync_replicas)))
  })

  lifecycle {
    prevent_destroy = true
  }
}
