# A topic that is deleted is lost with its records, and one that is made again begins at offset 0. So whatever would delete one is
# refused by the plan, in every environment: another name, a row that is gone, fewer partitions (the provider would replace the
# topic), `terraform destroy`. More partitions, more replicas and other settings are changed in place.
resource "kafka_topic" "all" {
  for_each = var.topics

  name               = each.value.name
  partitions         = each.value.partitions
  replication_factor = each.value.replication_factor
  config             = each.value.config

  lifecycle {
    prevent_destroy = true
  }
}
